"""Reduces the micro-batch size on all processes together if one lacks memory.

Only passes through the model are guarded: their memory depends on the micro-batch, and they do not communicate until gradients are summed.
The memory of the loss depends on the whole batch, so smaller micro-batches would not help.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn

from reelnest.training.distributed import world


class BatchTooLargeError(Exception):
    """At least one process ran out of memory. All processes raise it at the same point."""


@contextmanager
def all_or_none(device: torch.device) -> Iterator[None]:
    """Guards work without communication: raises BatchTooLargeError on all processes if one runs out of memory.

    All processes must reach it, because a missing process would block the others.
    """
    out_of_memory = False
    try:
        yield
    except RuntimeError as error:
        if not _is_lack_of_memory(error):
            raise
        out_of_memory = True
    votes = torch.tensor([int(out_of_memory)], device=device)
    if world()[1] > 1:
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    if votes.item():
        raise BatchTooLargeError


def _is_lack_of_memory(error: RuntimeError) -> bool:
    # cuBLAS allocates its workspace itself, and reports a failure in its own words, which accelerate does not know.
    return should_reduce_batch_size(error) or "CUBLAS_STATUS_ALLOC_FAILED" in str(error)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Averages gradients over processes as DDP does, after backward passes without synchronisation."""
    processes = world()[1]
    if processes == 1:
        return
    for parameter in parameters:
        # DDP also raises for a parameter without a gradient.
        gradient: Tensor = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        dist.all_reduce(gradient)
        parameter.grad = gradient.div_(processes)
