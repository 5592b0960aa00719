"""The vectors that a process's share of a batch is compared with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reelnest.training.batches.pair_batches import PairBatch
from reelnest.training.distributed import gather_with_gradient, world


@dataclass
class GatheredBatch:
    """One process's queries, and what all processes hold that they are compared with."""

    queries: Tensor
    """(share, width), this process's, not normalised."""
    targets: Tensor
    """(columns, width) of all processes, not normalised: those of all pairs, then extra negatives."""
    rows: slice
    """This process's pairs among all pairs. All processes have equally many."""
    related: Tensor | None = None
    """(share, columns) bool, True where a target is no negative of a query: known to be relevant too, the same item, or padding. The values
    of a pair's own target do not matter. None where all others are negatives."""
    relevance: Tensor | None = None
    """(share,) grades above 0."""
    all_queries: Tensor | None = None
    """(pairs, width) of all processes. None in a single process, or where they are not needed."""
    related_queries: Tensor | None = None
    """(share, pairs) bool, True where another query is no negative of a query."""
    related_targets: Tensor | None = None
    """(share, pairs) bool, the same for the targets of pairs."""


def gather_batch(vectors: Tensor, batch: PairBatch, *, with_queries: bool = False) -> GatheredBatch:
    """What `vectors`, a process's queries, targets and extra negatives (entries, width), are compared with. Every process calls it.

    A loss of what it returns has the gradients of one big batch, once averaged over processes as DDP and FSDP do: `gather_with_gradient`
    brings each vector the gradients that the other processes' losses have for it. `with_queries` gathers the queries too.
    """
    rank, processes = world()
    share, device = batch.share, vectors.device
    each = batch.related.shape[1] // processes - share  # extra negatives of a process, with padding
    queries, documents = vectors.float().split([share, len(vectors) - share])
    # Padding is masked everywhere. Ones, since the prefixes of a vector of zeros have no direction.
    documents = torch.cat([documents, documents.new_ones(share + each - len(documents), documents.shape[1])])
    gathered = gather_with_gradient(documents)  # (processes, share + each, width)
    return GatheredBatch(
        queries,
        torch.cat([gathered[:, :share].flatten(0, 1), gathered[:, share:].flatten(0, 1)]),  # (columns, width)
        slice(rank * share, (rank + 1) * share),
        batch.related.to(device),
        batch.relevance.to(device),
        gather_with_gradient(queries).flatten(0, 1) if with_queries else None,
        None if batch.related_queries is None else batch.related_queries.to(device),
        None if batch.related_targets is None else batch.related_targets.to(device),
    )
