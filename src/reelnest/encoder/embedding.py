"""Embeds many entries on all processes."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from reelnest.encoder.batches import Batcher, on_device
from reelnest.encoder.encoder import Encoder
from reelnest.progress import Activity
from reelnest.store.entries import Entry

logger = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 4
"""Approximate, for English text; used only to sort by length."""
GATHER_ROWS = 65_536
"""Vectors in one reduction over the processes: limits the GPU memory that it needs."""


class Entries(Protocol):
    """A sequence of entries that may be built on access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Entry: ...


def embed(encoder: Encoder, batcher: Batcher, entries: Entries, batch_size: int, progress: str) -> Tensor:
    """Returns vectors of `entries`, not normalised: float32 (entries, width), on the CPU, the same on every rank.

    Entries of similar length share a batch. The longest come first, so a lack of memory shows at once. The ranks take batches in turn.
    Batches, and so vectors, do not depend on the number of ranks. `progress` names the work. Every rank calls this with equal
    entries. Products have the precision of `encoder.autocast_dtype`. The encoder's training mode does not change.
    """
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    batches = batches_by_length(entries, batch_size)
    mine = batches[rank::ranks]
    vectors = torch.zeros(len(entries), encoder.width)
    was_training, started = encoder.training, time.perf_counter()
    encoder.eval()
    try:
        with torch.no_grad(), encoder.autocast(), Activity(progress, len(entries), "item", shown=rank == 0) as activity:
            computed = ((batch, encoder(on_device(batcher([entries[i] for i in batch]), encoder.device))) for batch in mine)
            for batch, rows in read_late(computed):
                vectors[batch] = rows
                activity.advance(min(len(batch) * ranks, len(entries) - activity.done))
            if encoder.sharded and len(mine) < -(-len(batches) // ranks):
                # Other ranks run one more batch, and their layers wait for this rank's shard of the weights.
                encoder(batcher.stand_in().to(encoder.device))
    finally:
        encoder.train(was_training)
    if ranks > 1:
        _sum_over_ranks(vectors, encoder.device)
    seconds = time.perf_counter() - started
    if rank == 0:
        logger.info("%s: %d items in %.1f s, %.0f a second", progress, len(entries), seconds, len(entries) / max(seconds, 1e-9))
    return vectors


def read_late(computed: Iterable[tuple[list[int], Tensor]]) -> Iterator[tuple[list[int], Tensor]]:
    """Yields pairs with the tensor on the CPU, each after the next one is computed.

    Reading waits for the device. So a GPU computes one batch while the next is made.
    """
    waiting: tuple[list[int], Tensor] | None = None
    for batch, rows in computed:
        if waiting is not None:
            yield waiting[0], waiting[1].cpu()
        waiting = batch, rows
    if waiting is not None:
        yield waiting[0], waiting[1].cpu()


def batches_by_length(entries: Entries, batch_size: int) -> list[list[int]]:
    """Returns batches of entry indices, grouped by length, the longest first."""
    lengths = []
    for index in range(len(entries)):
        entry = entries[index]
        video = 0 if entry.frames is None else entry.frames.tokens
        lengths.append((entry.frames is not None, video + len(entry.text) // CHARACTERS_PER_TOKEN))
    by_length = sorted(range(len(lengths)), key=lambda index: (lengths[index], -index), reverse=True)
    return [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]


def _sum_over_ranks(vectors: Tensor, device: torch.device) -> None:
    """Sums over the ranks. Each row is a vector on one rank and zeros on the others, so the sum is exact."""
    staging = device if dist.get_backend() == "nccl" else torch.device("cpu")
    for start in range(0, len(vectors), GATHER_ROWS):
        rows = vectors[start : start + GATHER_ROWS]
        moved = rows.to(staging)
        dist.all_reduce(moved)
        rows.copy_(moved)
