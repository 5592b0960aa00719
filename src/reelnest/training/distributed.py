"""What processes tell each other in a training step. Without a process group each function is the single-process case."""

import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any, NamedTuple, Self

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from reelnest.profiling.phases import phase


def world() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def shard_layers(accelerator: Accelerator, classes: Sequence[str]) -> None:
    """Says which layers FSDP shards one by one, by the names of their classes; without FSDP it does nothing. Call it before `prepare`."""
    if accelerator.distributed_type == DistributedType.FSDP:
        accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = list(classes)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:  # noqa: ARG004 (autograd's interface)
        gathered = local.new_empty((dist.get_world_size(), *local.shape))
        with phase("communication"):
            dist.all_gather(list(gathered.unbind(0)), local.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        # Every process's loss reads this process's vectors: their gradients add up here. DDP then takes the mean over processes, so that
        # the mean of the processes' losses has exactly the gradient of one big batch.
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        with phase("communication"):
            dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


def gather_with_gradient(local: Tensor) -> Tensor:
    """(n, …) of each process to (processes, n, …) on all, differentiable: the gradient sums over the processes' losses."""
    return _Gather.apply(local) if world()[1] > 1 else local.unsqueeze(0)


def gather(local: Tensor) -> Tensor:
    """(n, …) of each process to (processes, n, …) on all, without gradient."""
    if world()[1] == 1:
        return local.unsqueeze(0)
    gathered = local.new_empty((dist.get_world_size(), *local.shape))
    dist.all_gather(list(gathered.unbind(0)), local.contiguous())
    return gathered


def mean_over_processes(values: Tensor) -> Tensor:
    """The elementwise mean over processes, without gradient."""
    values = values.detach().clone()
    if world()[1] > 1:
        dist.all_reduce(values)
        values /= world()[1]
    return values


def all_agree(holds: bool) -> bool:
    """Whether it holds on all processes. Each of them calls it."""
    if world()[1] == 1:
        return holds
    on_gpu = dist.get_backend() == "nccl"
    votes = torch.tensor([int(holds)], device=torch.device("cuda", torch.cuda.current_device()) if on_gpu else None)
    dist.all_reduce(votes, op=dist.ReduceOp.MIN)
    return bool(votes.item())


class StopRequest:
    """Notes SIGTERM instead of ending at once, while the block lasts."""

    def __init__(self) -> None:
        self.is_made = False
        self.is_followed = False
        """Whether this process stops now; set by the training, once all processes agree."""
        self._previous: Any = None

    def __enter__(self) -> Self:
        try:
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        except ValueError:
            # Only a program's main thread may set handlers; elsewhere the program decides what SIGTERM means.
            self._previous = None
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None and not self.is_followed:
            # While a process stops, it closes its trackers: another SIGTERM, as torch sends when one rank ends, must not end it.
            signal.signal(signal.SIGTERM, self._previous)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.is_made = True


class Decision(NamedTuple):
    """What all processes do after the same step."""

    stop: bool
    checkpoint: bool


class StepVotes:
    """Turns what one process wants into what all processes do after the same step.

    A launcher signals its processes one after the other, and their clocks differ, so they may want a thing in different steps; one that
    stops, or saves, alone leaves the others waiting in a collective for ever. Each step therefore starts a tiny reduction over gloo and
    reads the one that the step before started: nobody waits, and all learn of a wish in the same step, at most one later.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo") if world()[1] > 1 else None
        self._pending: tuple[Any, Tensor] | None = None

    def decide(self, *, stop: bool, checkpoint: bool) -> Decision:
        """What is done after this step, given what this process wants. Every process calls it once a step."""
        if self._group is None:
            return Decision(stop, checkpoint)
        decision = Decision(stop=False, checkpoint=False)
        if self._pending is not None:
            work, votes = self._pending
            work.wait()
            decision = Decision(*votes.bool().tolist())
        # What happens now is not asked for once more.
        votes = torch.tensor([stop, checkpoint and not decision.checkpoint], dtype=torch.int32)
        self._pending = (dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._group, async_op=True), votes)
        return decision
