"""A moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

WARM_UP = 10
"""Warm-up of the decay, in steps, as in TensorFlow and timm."""


class Ema:
    """Exponential moving average of the trainable weights: average ← decay · average + (1 - decay) · weights, after each step.

    The weights of the last steps oscillate around a minimum, and their average is nearer to it (Polyak and Juditsky 1992,
    https://doi.org/10.1137/0330046). At first the decay is (1 + step) / (10 + step), so the initial weights do not dominate the average
    of a short training.

    torch's AveragedModel would copy the frozen weights too, in the weights' dtype; it does not shard, and its decay is constant.

    Averages are always float32: a change of a thousandth is below bfloat16's resolution. The averages of sharded weights are sharded the
    same way.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """`model` is the trained module, not a wrapper. If it is to be sharded, it already is."""
        self._decay = decay
        self._parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._averages = {name: parameter.detach().to(torch.float32, copy=True) for name, parameter in self._parameters.items()}
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Updates the averages after a step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (WARM_UP + self._steps))
        weights = [_local(parameter).float() for parameter in self._parameters.values()]
        torch._foreach_lerp_([_local(average) for average in self._averages.values()], weights, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the averages into the model for the duration of the block, then restores the exact weights."""
        weights = [_local(parameter).clone() for parameter in self._parameters.values()]
        self._put(list(self._averages.values()))
        try:
            yield
        finally:
            self._put(weights)

    def state(self) -> dict[str, Any]:
        """Returns the unsharded state on the CPU, for a checkpoint. Every process calls it."""
        averages = {name: _unsharded(average).cpu().clone() for name, average in self._averages.items()}
        return {"steps": self._steps, "averages": averages}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Loads the result of `state`, sharded or not."""
        self._steps = int(state["steps"])
        for name, average in self._averages.items():
            average.copy_(_as(state["averages"][name], average))

    def own_shard(self) -> dict[str, Any]:
        """Returns this process's shard of the state on the CPU, for a sharded checkpoint."""
        return {"steps": self._steps, "averages": {name: _local(average).to("cpu", copy=True) for name, average in self._averages.items()}}

    @torch.no_grad()
    def load_own_shard(self, shard: Mapping[str, Any]) -> None:
        """Loads the result of `own_shard` of this process."""
        self._steps = int(shard["steps"])
        for name, average in self._averages.items():
            _local(average).copy_(shard["averages"][name])

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters.values(), values, strict=True):
            _local(parameter).copy_(_local(value))


def _local(tensor: Tensor) -> Tensor:
    """Returns this process's shard of a sharded tensor, as a view; an unsharded tensor as it is."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _unsharded(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _as(value: Tensor, like: Tensor) -> Tensor:
    """Returns `value` sharded like `like`."""
    value = value.to(like.device)
    # Each process has the whole value, so no communication is needed.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None) if isinstance(like, DTensor) else value
