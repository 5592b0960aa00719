"""The predicted memory of a step compared with torch's allocator in a real one."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.profiler import ProfilerActivity, profile

from reelnest.backbones.architecture import backbone_config
from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.backbones.registry import family_of
from reelnest.encoder.unfilled import PackedLinear, unfilled_encoder
from reelnest.settings import Params
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.memory_prediction.fitting import smallest_card
from reelnest.training.memory_prediction.step_memory import StepMemory, estimate_step, predict_step, stand_in_training
from reelnest.training.memory_prediction.step_shapes import Sizes, largest_grid, stand_in_batcher, step_of

TINY = {"hidden_size": 64, "layers": 2, "heads": 2, "vision_hidden_size": 32, "vision_layers": 2, "vision_heads": 2, "vocabulary": 300}
SIZES = Sizes(text_tokens=12, grid=(2, 4, 4))


@pytest.fixture(autouse=True)
def _accelerate_starts_anew() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def settings(model: dict[str, Any] | None = None, **train: Any) -> Params:
    train = {"batch_size": 8, "optimizer": "adamw", **train}
    return Params.model_validate(
        {"model": {"tiny": TINY, "dims": [16, 64], **(model or {})}, "train": train, "launch": {"config": "cpu-1"}}
    )


_PREDICTED: dict[tuple[str, int], StepMemory] = {}


def predicted(params: Params, processes: int = 1) -> StepMemory:
    key = params.model_dump_json(), processes
    if key not in _PREDICTED:
        _PREDICTED[key] = predict_step(params, backbone_config(params.model), SIZES, processes=processes)
    return _PREDICTED[key]


def allocated(params: Params, trace: Path) -> int:
    """Returns the peak bytes of torch's CPU allocator while a model is built and takes two steps."""
    config = backbone_config(params.model)
    empty = unfilled_encoder(params.model, config)
    gc.collect()  # garbage of an earlier test would otherwise be freed during the count
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        encoder = empty.to_empty(device="cpu")
        for tensor in [*encoder.parameters(), *encoder.buffers()]:
            tensor.data.normal_(std=0.02)
        if params.train.gradient_checkpointing:
            encoder.enable_gradient_checkpointing()
        model = ContrastiveModel(encoder, params.loss, params.model.dims)
        batcher = stand_in_batcher(params, config, SIZES)
        training = stand_in_training(params, Accelerator(cpu=True, mixed_precision=params.train.mixed_precision), model, batcher)
        for _ in range(2):
            training.take_step(0, step_of(params, batcher))
    profiler.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        level += event["args"]["Bytes"]
        peak = max(peak, level)
    return peak


@pytest.mark.parametrize(
    "params",
    [
        settings(),
        settings({"freeze": "vision", "lora": {"r": 4, "dropout": 0.1}}, gradient_checkpointing=True),
        settings(micro_batch_size=2, mixed_precision="bf16"),
        settings({"freeze": "backbone", "projection": 64}),
        settings({"family": "qwen3_vl"}),
    ],
    ids=["all trained", "LoRA, checkpointing", "gradient caching, bfloat16", "projection alone", "Qwen3-VL"],
)
def test_the_peak_is_what_a_real_step_allocates(params: Params, tmp_path: Path) -> None:
    prediction = predicted(params)
    # numpy allocates the inputs.
    assert prediction.peak - prediction.components["inputs"] == pytest.approx(allocated(params, tmp_path / "trace.json"), rel=0.03)


def test_weights_gradients_and_optimizer_have_the_bytes_of_their_parameters() -> None:
    params = settings()
    model = unfilled_encoder(params.model, backbone_config(params.model))
    count = sum(parameter.numel() for parameter in model.parameters())
    prediction = predicted(params, processes=2)
    assert prediction.components["weights"] == pytest.approx(4 * count, rel=0.01)
    # DDP's buckets hold all gradients from the first step on.
    assert prediction.components["gradients"] == pytest.approx(4 * count, rel=0.01)
    assert prediction.components["optimizer"] == pytest.approx(8 * count, rel=0.01)
    assert prediction.peak == sum(prediction.components.values())


def test_a_sharded_model_is_divided_except_for_what_is_gathered() -> None:
    params = settings({"tiny": {**TINY, "layers": 4}}, mixed_precision="bf16", gradient_checkpointing=True)
    model = unfilled_encoder(params.model, backbone_config(params.model))
    count = sum(parameter.numel() for parameter in model.parameters())
    layers = [*model.language_model.layers, *model.vision_tower.blocks]  # type: ignore[misc]  # modules of the toy model
    by_layer = sorted(sum(parameter.numel() for parameter in layer.parameters()) for layer in layers)
    unsharded = count - sum(by_layer) + sum(by_layer[-2:])
    whole, shard = (predict_step(params, backbone_config(params.model), SIZES, processes=8, sharded=sharded) for sharded in (False, True))
    # Weights are gathered in 16 bits, and their gradients reduced in 32.
    assert shard.components["weights"] == pytest.approx(4 * count / 8 + 2 * unsharded, rel=0.01)
    assert 4 * unsharded < shard.components["gradients"] <= 4 * count / 8 + 4.1 * unsharded
    assert shard.components["optimizer"] <= 1.02 * 8 * count / 8
    assert shard.peak < whole.peak


@pytest.mark.parametrize(
    ("preset", "card", "processes", "gib"),
    [("qwen2.5-vl-7b-fsdp", "four 80 GB GPUs", 4, 80), ("qwen3-vl-embedding-2b-lora", "one 12 GB GPU", 1, 12)],
)
def test_a_preset_fits_the_card_that_it_names(preset: str, card: str, processes: int, gib: int) -> None:
    text = (Path(__file__).parents[3] / "configs" / "presets" / f"{preset}.yaml").read_text()
    assert card in text
    params = Params.model_validate(yaml.safe_load(text))
    config = backbone_config(params.model)
    sizes = Sizes(64, largest_grid(params.preprocess, family_of(params.model).vision))
    assert smallest_card(estimate_step(params, config, sizes, processes=processes, sharded=processes > 1, on_gpu=True)) == gib


def test_settings_that_save_memory_save_it_where_they_should() -> None:
    plain = predicted(settings())
    assert predicted(settings(gradient_checkpointing=True)).components["activations"] < 0.7 * plain.components["activations"]
    assert predicted(settings(micro_batch_size=2)).components["activations"] < 0.4 * plain.components["activations"]
    frozen = predicted(settings({"freeze": "vision"}))
    assert frozen.components["vision"] < 0.1 * plain.components["vision"]
    assert frozen.components["optimizer"] < plain.components["optimizer"]


@pytest.mark.parametrize("sharded", [False, True])
def test_a_frozen_tower_takes_no_memory_of_a_gpu_unless_it_is_sharded(sharded: bool) -> None:
    params = settings({"freeze": "vision"})
    config = backbone_config(params.model)
    tower = unfilled_encoder(params.model, config).vision_tower
    held, released = (
        predict_step(params, config, SIZES, processes=2, sharded=sharded, on_gpu=on_gpu).components["weights"] for on_gpu in (False, True)
    )
    assert held - released == (0 if sharded else 4 * sum(tensor.numel() for tensor in [*tower.parameters(), *tower.buffers()]))
    trained = settings()
    assert predict_step(trained, config, SIZES, on_gpu=True).peak == predict_step(trained, config, SIZES).peak


def test_four_bit_weights_count_for_what_they_take() -> None:
    four_bit = {"name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct", "revision": "0" * 40, "dtype": "bfloat16", "lora": {"merge": False}}
    params = Params.model_validate({"model": {**four_bit, "load_in_4bit": True, "dims": [256]}})
    config = backbone_config(params.model)
    config.text_config.num_hidden_layers = 2
    config.vision_config.depth = 2
    encoder = unfilled_encoder(params.model, config)
    packed = [module for module in encoder.modules() if isinstance(module, PackedLinear)]
    assert len(packed) == 14
    # A weight of 4 bits, and 8 + 32 / 256 bits of scale for 64 of them.
    weights = sum(module.in_features * module.out_features for module in packed)
    assert sum(module.weight.numel() for module in packed) == pytest.approx(weights * (4 + 8.125 / 64) / 8, rel=1e-4)  # type: ignore[operator, misc]  # modules with weights
    prediction = predict_step(params.model_copy(update={"train": params.train.model_copy(update={"batch_size": 2})}), config, SIZES)
    assert prediction.peak > prediction.components["weights"] > 0


def test_a_deep_model_is_estimated_from_shallow_ones() -> None:
    params = settings({"tiny": {**TINY, "layers": 10}, "lora": {"r": 4}}, gradient_checkpointing=True)
    estimated = estimate_step(params, backbone_config(params.model), SIZES)
    exact = predicted(params)
    assert estimated.components == pytest.approx(exact.components, rel=0.01, abs=0.002 * exact.peak)


def test_the_largest_video_keeps_to_the_settings() -> None:
    params = Params.model_validate({"preprocess": {"frames": 16, "max_pixels": 100352}})
    assert largest_grid(params.preprocess, VISION) == (8, 16, 32)
    assert VISION.tokens((8, 16, 32)) == 1024
    assert torch.tensor(largest_grid(Params().preprocess, VISION)).tolist() == [2, 4, 4]
