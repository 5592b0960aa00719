"""Tokens and model FLOPs of a step, compared with torch's count."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from reelnest.backbones.architecture import backbone_config
from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.encoder.encoder import Encoder
from reelnest.encoder.unfilled import unfilled_encoder
from reelnest.profiling.throughput import Meter, WorkOf, peak_flops
from reelnest.settings import Params
from reelnest.training.batches.pair_batches import PairBatch
from reelnest.training.memory_prediction.step_shapes import Sizes, stand_in_batcher, step_of

TINY = {"hidden_size": 128, "layers": 3, "heads": 4, "vision_hidden_size": 64, "vision_layers": 3, "vision_heads": 4, "vocabulary": 300}
SIZES = Sizes(text_tokens=20, grid=(2, 12, 12))  # a frame of 36 tokens: windows of several sizes


def encoder_and_batch(model: dict[str, Any]) -> tuple[Encoder, PairBatch]:
    """An encoder with weights, and a batch of 4 pairs of equal length, without padding."""
    params = Params.model_validate(
        {"model": {"tiny": TINY, "dims": [64], **model}, "train": {"batch_size": 4}, "launch": {"config": "cpu-1"}}
    )
    config = backbone_config(params.model)
    encoder = unfilled_encoder(params.model, config).to_empty(device="cpu")
    for tensor in [*encoder.parameters(), *encoder.buffers()]:
        tensor.data.normal_(std=0.02)
    return encoder, step_of(params, stand_in_batcher(params, config, SIZES))[0]


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"family": "qwen2_vl"},
        {"family": "qwen3_vl"},
        {"lora": {"r": 8, "dropout": 0.1}},
        {"lora": {"r": 8, "vision": True, "dropout": 0.1}},
        {"freeze": "backbone", "projection": 96},
    ],
    ids=["all trained", "Qwen2-VL", "Qwen3-VL", "LoRA on cached video tokens", "LoRA on both", "projection alone"],
)
def test_flops_are_those_that_torch_counts(model: dict[str, Any]) -> None:
    encoder, batch = encoder_and_batch(model)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # on a CPU, only this attention is counted
        for inputs in batch.inputs:
            encoder(inputs).sum().backward()
    flops = sum(WorkOf(encoder)(inputs).flops for inputs in batch.inputs)
    # The difference: gradients of the first layer's input, and products of adapters on frozen layers.
    assert flops == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_tokens_count_without_padding() -> None:
    encoder, batch = encoder_and_batch({})
    works = [WorkOf(encoder)(inputs) for inputs in batch.inputs]
    queries, targets = 4 * (20 + 1), 4 * (20 + 1 + 2 + VISION.tokens(SIZES.grid))
    assert sum(work.tokens for work in works) == queries + targets
    segment = batch.inputs[0].segments[0]
    segment.attention_mask[0, :7] = 0
    assert WorkOf(encoder)(batch.inputs[0]).tokens == works[0].tokens - 7


def test_rates_are_over_all_processes_and_without_utilisation_on_a_cpu() -> None:
    encoder, batch = encoder_and_batch({})
    meter = Meter(encoder, torch.device("cpu"), processes=2)
    assert meter.report() == {}
    meter.add(batch.layouts, pairs=8)
    rates = meter.rates()
    assert set(rates) == {f"train/{name}" for name in ("pairs_per_second", "tokens_per_second", "model_tflops_per_second")}
    tokens = 2 * sum(WorkOf(encoder)(inputs).tokens for inputs in batch.inputs)
    assert rates["train/tokens_per_second"] / rates["train/pairs_per_second"] == pytest.approx(tokens / 8)
    assert meter.report()["tokens_per_second"] == rates["train/tokens_per_second"]


@pytest.mark.parametrize(("name", "peak"), [("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H100 PCIe", 756e12), ("Some other card", None)])
def test_a_cards_arithmetic_is_known_by_its_name(name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: name)
    assert peak_flops(torch.device("cuda", 0)) == peak
