"""Gathers the vectors that a process's share of a batch is compared with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reelnest.training.batches.pair_batches import PairBatch
from reelnest.training.distributed import gather_with_gradient, world


@dataclass
class GatheredBatch:
    """One process's queries, and the vectors of all processes that they are compared with."""

    queries: Tensor
    """(share, width), this process's, not normalised."""
    targets: Tensor
    """(columns, width) of all processes, not normalised: all pairs' targets, then extra negatives."""
    rows: slice
    """This process's pairs among all pairs. All processes have the same number."""
    related: Tensor | None = None
    """(share, columns) bool, True if a target is not a negative of a query: also relevant, the same item, or padding. Values of a pair's
    own target are ignored. None if all other targets are negatives."""
    relevance: Tensor | None = None
    """(share,) grades above 0."""
    all_queries: Tensor | None = None
    """(pairs, width) of all processes. None for a single process, or if not needed."""
    related_queries: Tensor | None = None
    """(share, pairs) bool, True if a query is not a negative of another query."""
    related_targets: Tensor | None = None
    """(share, pairs) bool, the same for the targets of pairs."""


def gather_batch(vectors: Tensor, batch: PairBatch, *, with_queries: bool = False) -> GatheredBatch:
    """Gathers the batch for `vectors`, (entries, width): a process's queries, targets and extra negatives. Every process calls it.

    A loss of the result, averaged over processes by DDP or FSDP, has the gradients of one big batch: `gather_with_gradient` adds the
    gradients of the other processes' losses to each vector. `with_queries` gathers the queries too.
    """
    rank, processes = world()
    share, device = batch.share, vectors.device
    each = batch.related.shape[1] // processes - share  # extra negatives of a process, with padding
    queries, documents = vectors.float().split([share, len(vectors) - share])
    # Padding is masked everywhere. It is ones, because zeros cannot be normalised.
    documents = torch.cat([documents, documents.new_ones(share + each - len(documents), documents.shape[1])])
    gathered = gather_with_gradient(documents)  # (processes, share + each, width)
    return GatheredBatch(
        queries,
        torch.cat([gathered[:, :share].flatten(0, 1), gathered[:, share:].flatten(0, 1)]),  # (columns, width)
        slice(rank * share, (rank + 1) * share),
        batch.related.to(device, non_blocking=True),
        batch.relevance.to(device, non_blocking=True),
        gather_with_gradient(queries).flatten(0, 1) if with_queries else None,
        None if batch.related_queries is None else batch.related_queries.to(device, non_blocking=True),
        None if batch.related_targets is None else batch.related_targets.to(device, non_blocking=True),
    )
