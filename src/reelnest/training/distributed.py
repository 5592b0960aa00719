"""Communication between the processes of a training step. Without a process group, each function handles a single process."""

import signal
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any, NamedTuple, Self, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from reelnest.encoder.encoder import COMPUTE_DTYPES
from reelnest.profiling.phases import phase
from reelnest.settings import Precision

OBJECTIVE = "objective"
"""The module of a ContrastiveModel with the loss's parameters."""


def world() -> tuple[int, int]:
    """Returns this process's rank and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def shard_layers(accelerator: Accelerator, classes: Sequence[str]) -> None:
    """Sets the classes of the layers that FSDP shards separately, its precision, and what it leaves alone; without FSDP, does nothing.

    Call it before `prepare`.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
        plugin.transformer_cls_names_to_wrap = list(classes)
        plugin.mixed_precision_policy = sharding_policy(cast("Precision", accelerator.mixed_precision))
        # Sharded, the loss's parameters would be rounded to bfloat16: a temperature of 0.05 to 0.0498. In fp16 they are, with less loss,
        # because its scaler cannot read the gradients of sharded and unsharded parameters together.
        plugin.ignored_modules = rf"{OBJECTIVE}(\..+)?" if accelerator.mixed_precision == "bf16" else None


def sharding_policy(mixed_precision: Precision) -> MixedPrecisionPolicy:
    """Returns FSDP's precision: products in `mixed_precision`, sums of gradients in float32, outputs as the layers return them.

    accelerate's own policy also sums gradients in bfloat16, and rounds the encoder's float32 vectors to it before the loss.
    """
    dtype = COMPUTE_DTYPES[mixed_precision]
    return MixedPrecisionPolicy() if dtype is None else MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:  # noqa: ARG004 (autograd's interface)
        gathered = local.new_empty((dist.get_world_size(), *local.shape))
        with phase("communication"):
            dist.all_gather(list(gathered.unbind(0)), local.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004 (PyTorch's signature)
        # Every process's loss depends on this process's vectors, so their gradients are summed here. DDP then averages over processes,
        # so the mean of the processes' losses has exactly the gradient of one big batch.
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        with phase("communication"):
            dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


def gather_with_gradient(local: Tensor) -> Tensor:
    """Gathers (n, …) of each process into (processes, n, …) on all. The gradient is summed over the processes' losses."""
    return _Gather.apply(local) if world()[1] > 1 else local.unsqueeze(0)


def gather(local: Tensor) -> Tensor:
    """Gathers (n, …) of each process into (processes, n, …) on all, without gradient."""
    if world()[1] == 1:
        return local.unsqueeze(0)
    gathered = local.new_empty((dist.get_world_size(), *local.shape))
    dist.all_gather(list(gathered.unbind(0)), local.contiguous())
    return gathered


def mean_over_processes(values: Tensor) -> Tensor:
    """Returns the elementwise mean over processes, without gradient."""
    values = values.detach().clone()
    if world()[1] > 1:
        dist.all_reduce(values)
        values /= world()[1]
    return values


def all_agree(condition: bool) -> bool:
    """Returns whether `condition` is true on all processes. Each process calls it."""
    if world()[1] == 1:
        return condition
    on_gpu = dist.get_backend() == "nccl"
    votes = torch.tensor([int(condition)], device=torch.device("cuda", torch.cuda.current_device()) if on_gpu else None)
    dist.all_reduce(votes, op=dist.ReduceOp.MIN)
    return bool(votes.item())


def on_all(names: set[str]) -> set[str]:
    """Returns those of `names` that all processes have. Each process calls it."""
    if world()[1] == 1:
        return names
    gathered: list[set[str]] = [set()] * world()[1]
    dist.all_gather_object(gathered, names)
    return set.intersection(*gathered)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Clips the gradients of sharded and unsharded parameters by their common norm, and returns the norm before.

    torch's function refuses a mixture. Every process calls it; the gradients of unsharded parameters are the same on all.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    sharded = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    unsharded = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norms = [get_total_norm(unsharded)] if unsharded else []
    if sharded:
        norm: Any = get_total_norm(sharded)
        norms.append(norm.full_tensor())
    total = torch.linalg.vector_norm(torch.stack(norms))
    factor = (largest / (total + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([*(gradient.to_local() for gradient in sharded), *unsharded], factor)
    return total


class StopRequest:
    """Records SIGTERM within the block, instead of exiting at once."""

    def __init__(self) -> None:
        self.is_made = False
        self.is_followed = False
        """Whether this process stops now. The training sets it when all processes agree."""
        self._previous: Any = None

    def __enter__(self) -> Self:
        try:
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        except ValueError:
            # Only the main thread may set handlers; in another thread the program handles SIGTERM.
            self._previous = None
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None and not self.is_followed:
            # A stopping process closes its trackers. A second SIGTERM, which torch sends when one rank exits, must not interrupt this.
            signal.signal(signal.SIGTERM, self._previous)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.is_made = True


class Decision(NamedTuple):
    """The decision of all processes after the same step."""

    stop: bool
    checkpoint: bool


class StepVotes:
    """Turns the request of one process into a decision of all processes after the same step.

    A launcher signals its processes one by one, and their clocks differ, so requests come in different steps. A process that stops or saves
    alone would leave the others waiting in a collective forever. So each step starts a tiny reduction over gloo and reads the one that the
    previous step started. No process waits, and all learn of a request in the same step, at most one step later.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo") if world()[1] > 1 else None
        self._pending: tuple[Any, Tensor] | None = None

    def decide(self, *, stop: bool, checkpoint: bool) -> Decision:
        """Returns the decision after this step, given this process's requests. Every process calls it once per step."""
        if self._group is None:
            return Decision(stop, checkpoint)
        decision = Decision(stop=False, checkpoint=False)
        if self._pending is not None:
            work, votes = self._pending
            work.wait()
            decision = Decision(*votes.bool().tolist())
        # A checkpoint that is written now is not requested again.
        votes = torch.tensor([stop, checkpoint and not decision.checkpoint], dtype=torch.int32)
        self._pending = (dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._group, async_op=True), votes)
        return decision
