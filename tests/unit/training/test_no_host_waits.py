"""A training step queues all of its work without waiting for the device.

The meta device replaces a GPU: its tensors have no contents, so that reading a number from one, `nonzero` or a copy to the CPU fail. A
copy to the device must be asynchronous, and no operation may mix tensors of both devices, because torch then copies one and waits.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reelnest.backbones.architecture import backbone_config
from reelnest.backbones.registry import family_of_config
from reelnest.encoder.batches import Batch, map_tensors, pinned
from reelnest.encoder.unfilled import unfilled_encoder
from reelnest.settings import Params
from reelnest.training import step as training_step
from reelnest.training.checkpoint.train_state import TrainState
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.memory_prediction.step_shapes import Sizes, largest_grid, stand_in_batcher, step_of
from reelnest.training.step import TrainingStep

TINY = {"hidden_size": 32, "layers": 2, "heads": 2, "vision_hidden_size": 16, "vision_layers": 2, "vision_heads": 2, "vocabulary": 300}
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_embedding")


class Waits(TorchDispatchMode):
    """Collects the operations for which a GPU's host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        kinds = {tensor.device.type for tensor in tensors if tensor.ndim}
        if func is torch.ops.aten._to_copy.default:
            to = kwargs.get("device")
            if to is not None and torch.device(to).type != args[0].device.type and not kwargs.get("non_blocking"):
                self.found.append(f"a copy of {tuple(args[0].shape)} to {to}")
        elif len(kinds) > 1:
            self.found.append(f"{func} on {sorted(kinds)}")
        return func(*args, **kwargs)


def step_on_meta(
    model: dict[str, Any],
    train: dict[str, Any],
    loss: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[ContrastiveModel], None] = lambda _model: None,
) -> list[str]:
    """Returns what a step waits for. `change` is made to the model before."""
    params = Params.model_validate(
        {
            "preprocess": {"frames": 4, "max_pixels": 4096},
            "model": {"tiny": TINY, "dims": [8, 32], **model},
            "train": {"batch_size": 4, "trackers": [], **train},
            "loss": loss,
            "launch": {"config": "cpu-1"},
        }
    )
    config = backbone_config(params.model)
    encoder = unfilled_encoder(params.model, config)
    if params.train.gradient_checkpointing:
        encoder.enable_gradient_checkpointing()
    sizes = Sizes(5, largest_grid(params.preprocess, family_of_config(config.to_dict(), "config").vision))
    batcher = stand_in_batcher(params, config, sizes)
    meta = torch.device("meta")
    # It has no autocast.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    # torch's fused AdamW does not run on the meta device.
    monkeypatch.setattr(training_step, "build_optimizer", lambda model, train: torch.optim.SGD(model.parameters(), lr=train.learning_rate))
    monkeypatch.setattr(Accelerator, "device", property(lambda _self: meta))
    step = TrainingStep(params, Accelerator(cpu=True, device_placement=False), model_on(meta, encoder, params), batcher, 10)
    change(step.model)
    with Waits() as waits:
        step(step_of(params, batcher), TrainState(micro_batch_size=params.train.micro_batch_size))
    return waits.found


def model_on(device: torch.device, encoder: Any, params: Params) -> ContrastiveModel:
    return ContrastiveModel(encoder, params.loss, params.model.dims).to(device)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_a_step_of_each_family_waits_for_nothing(family: str, lora: dict[str, int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert step_on_meta({"family": family, "lora": lora, "pooling": "last"}, {"ema_decay": 0.9}, {}, monkeypatch) == []


@pytest.mark.parametrize(
    ("model", "train", "loss"),
    [
        ({"projection": 48, "dims": [16, 48], "freeze": "backbone"}, {}, {"dim_weights": "random", "learn_temperature": True}),
        ({"freeze": "vision", "pooling": "mean"}, {"micro_batch_size": 2}, {"intra_modal_negatives": True, "false_negative_margin": 0.1}),
        ({"lora": {"r": 2, "vision": True}}, {"gradient_checkpointing": True, "accumulation_steps": 2}, {"dim_weights": [1.0, 2.0]}),
        ({"dtype": "bfloat16", "lora": {"r": 2}}, {"micro_batch_size": 1}, {"dim_weights": "learnt", "graded_relevance": True}),
    ],
)
def test_nor_does_it_with_other_settings(
    model: dict[str, Any], train: dict[str, Any], loss: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert step_on_meta(model, train, loss, monkeypatch) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_with_cached_tokens_it_does_not_need_the_tower_on_the_device(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def release(model: ContrastiveModel) -> None:
        for module in model.encoder.vision_tower.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(torch.empty(parameter.shape), requires_grad=False)

    assert step_on_meta({"family": family, "freeze": "vision"}, {"gradient_checkpointing": True}, {}, monkeypatch, release) == []
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        step_on_meta({"family": family}, {}, {}, monkeypatch, release)


@pytest.mark.parametrize("wait", [lambda value: value.to("meta"), lambda value: torch.ones(4, device="meta")[value]])
def test_a_wait_is_found(wait: Any) -> None:
    with Waits() as waits:
        wait(torch.arange(2))
    assert len(waits.found) == 1


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_a_pinned_batch_has_all_of_its_tensors_in_page_locked_memory(micro_batch_size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[int] = []

    def pin(tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        locked.append(copy.data_ptr())
        return copy

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    model = {"tiny": TINY, "dims": [32]}
    params = Params.model_validate({"model": model, "train": {"batch_size": 4, "micro_batch_size": micro_batch_size}})
    batch = stand_in_batcher(params, backbone_config(params.model), Sizes(5, (2, 4, 4)))(np.arange(4), micro_batch_size)
    [moved] = pinned([batch])
    tensors: list[Tensor] = []

    def collect(_name: str, tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors([moved, list(moved.inputs)], collect)
    assert len(tensors) > 10
    assert {tensor.data_ptr() for tensor in tensors if tensor.numel()} <= set(locked)
    assert_equal(batch.inputs, moved.inputs)


def assert_equal(batches: Sequence[Batch], others: Sequence[Batch]) -> None:
    for batch, other in zip(batches, others, strict=True):
        for segment, same in zip(batch.segments, other.segments, strict=True):
            assert torch.equal(segment.input_ids, same.input_ids)
            assert segment.rows is None or torch.equal(segment.rows, same.rows)  # type: ignore[arg-type]  # both or neither
