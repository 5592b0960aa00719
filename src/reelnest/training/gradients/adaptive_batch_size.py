"""Smaller micro-batches when memory does not suffice, in all processes together.

Only passes through the model are guarded: their memory falls with the micro-batch, and they need no other process until gradients are
summed. That of the loss depends on the whole batch, so smaller micro-batches would not help it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn

from reelnest.training.distributed import world


class BatchTooLargeError(Exception):
    """At least one process had too little memory. Raised in all of them, at the same place."""


@contextmanager
def all_or_none(device: torch.device) -> Iterator[None]:
    """Around work in which no process waits for another: raises BatchTooLargeError in all of them where the memory of one is too small.

    All processes have to come by. A process that left alone would leave the others waiting for it.
    """
    out_of_memory = False
    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        out_of_memory = True
    votes = torch.tensor([int(out_of_memory)], device=device)
    if world()[1] > 1:
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    if votes.item():
        raise BatchTooLargeError


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """What DDP does at the end of a backward pass, for passes in which it was kept from it."""
    processes = world()[1]
    if processes == 1:
        return
    for parameter in parameters:
        # DDP raises for a parameter without a gradient.
        gradient: Tensor = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        dist.all_reduce(gradient)
        parameter.grad = gradient.div_(processes)
