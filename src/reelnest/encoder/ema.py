"""An average of the weights over the last steps."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

WARM_UP = 10
"""Of the decay, in steps, as TensorFlow's and timm's averages have it."""


class Ema:
    """Exponential moving average of what trains: average ← decay · average + (1 - decay) · weights, after each step.

    The last steps' weights jump about the minimum that their average is near (Polyak and Juditsky 1992,
    https://doi.org/10.1137/0330046), and the average is often the better model. At first the decay is (1 + step) / (10 + step), so that a
    short training is no average of what it began with.

    torch's AveragedModel would copy the whole model, with all that is frozen, in the weights' own type; it does not shard, and its decay is
    the same from the first step on.

    Averages are float32 whatever the weights are: a change of a thousandth is below bfloat16's resolution. Where weights are sharded, so
    are the averages, and each process keeps its own.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """`model` is the one that trains: not a wrapper, and already sharded if it is to be."""
        self._decay = decay
        self._parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._averages = {name: parameter.detach().to(torch.float32, copy=True) for name, parameter in self._parameters.items()}
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights after a step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (WARM_UP + self._steps))
        weights = [_local(parameter).float() for parameter in self._parameters.values()]
        torch._foreach_lerp_([_local(average) for average in self._averages.values()], weights, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the averages into the model for as long as the block lasts; the weights come back to the last bit."""
        kept = [_local(parameter).clone() for parameter in self._parameters.values()]
        self._put(list(self._averages.values()))
        try:
            yield
        finally:
            self._put(kept)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: whole, on the CPU. Every process calls it."""
        averages = {name: _whole(average).cpu().clone() for name, average in self._averages.items()}
        return {"steps": self._steps, "averages": averages}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave, sharded or not."""
        self._steps = int(state["steps"])
        for name, average in self._averages.items():
            average.copy_(_as(state["averages"][name], average))

    def own_shard(self) -> dict[str, Any]:
        """For a sharded checkpoint: what this process keeps, on the CPU."""
        return {"steps": self._steps, "averages": {name: _local(average).to("cpu", copy=True) for name, average in self._averages.items()}}

    @torch.no_grad()
    def load_own_shard(self, shard: Mapping[str, Any]) -> None:
        """Takes over what `own_shard` gave on this process."""
        self._steps = int(shard["steps"])
        for name, average in self._averages.items():
            _local(average).copy_(shard["averages"][name])

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters.values(), values, strict=True):
            _local(parameter).copy_(_local(value))


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, as a view; another tensor itself."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _as(value: Tensor, like: Tensor) -> Tensor:
    """`value`, spread over the processes as `like` is."""
    value = value.to(like.device)
    # Each process has read the whole value: none has to be sent.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None) if isinstance(like, DTensor) else value
