"""Turns row numbers of pairs into one process's share of a contrastive batch, with its negatives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from reelnest.encoder.batches import Batch, Batcher, MicroBatches
from reelnest.store.entries import Role
from reelnest.store.prepared import Indices, Pairs, Prepared

Negatives = Callable[[int], Indices]
"""Maps a pair's row number to its extra negatives."""

PADDING = -1
"""Replaces an item if a process has one extra negative fewer than another."""


@dataclass
class PairBatch:
    """One process's share of a contrastive batch, ready for the model.

    A query is compared with these columns: the targets of all pairs of the batch, then the extra negatives of all processes, padded to the
    same number per process.
    """

    inputs: Sequence[Batch]
    """The share's queries, targets and extra negatives, each item once, in micro-batches of similar kinds and lengths. Every process has
    the same number of micro-batches."""
    inverse: Tensor
    """int64, the inverse of the permutation into micro-batches: it indexes their concatenated vectors to give queries, targets and extra
    negatives. An item of several pairs occurs once for each of them."""
    share: int
    """Number of this process's pairs."""
    related: Tensor
    """bool (share, columns): the column is not a negative of the query: it is relevant, the same item, or padding."""
    relevance: Tensor
    """float32 (share,): the grade of each pair."""
    related_queries: Tensor | None
    """bool (share, pairs): the column's query equals the row's, or the same target is relevant to both. None unless the loss needs it."""
    related_targets: Tensor | None
    """bool (share, pairs): the same for targets."""
    rows: np.ndarray
    """Row numbers of all pairs of the batch, int64 (pairs,)."""
    extras: np.ndarray
    """Extra negatives of the batch, int64 (extras,). `rows` and `extras` suffice to rebuild it with other micro-batches."""

    @property
    def layouts(self) -> Sequence[Batch]:
        """The micro-batches for their sizes; videos may lack contents."""
        return self.inputs.layouts() if isinstance(self.inputs, MicroBatches) else self.inputs


class PairBatcher:
    """Builds a process's share of a batch from row numbers of pairs.

    Each process computes the composition of the whole batch, so no communication is needed. A negative of several pairs, or one that is a
    target of the batch, is one column.
    """

    def __init__(
        self,
        prepared: Prepared,
        pairs: Pairs,
        batcher: Batcher,
        rank: int,
        processes: int,
        *,
        negatives: Negatives | None = None,
        intra_modal: bool = False,
    ) -> None:
        """`intra_modal`: batches also mark related queries and related targets."""
        self._prepared = prepared
        self._pairs = pairs
        self._batcher = batcher
        self._rank = rank
        self._processes = processes
        self._negatives = negatives
        self._intra_modal = intra_modal

    def __call__(self, rows: np.ndarray, micro_batch_size: int | None = None) -> PairBatch:
        """Builds the share of a batch. `rows` are those of all processes; `micro_batch_size` counts pairs, None for one micro-batch."""
        extras = np.empty(0, dtype=np.int64)
        if self._negatives is not None:
            extras = np.setdiff1d(np.concatenate([self._negatives(int(row)) for row in rows]), self._pairs.targets[rows])
        return self._make(rows, extras.astype(np.int64), micro_batch_size)

    def stand_in(self) -> Batch:
        """Returns a batch of one empty text, for a process that must run the model without having anything to encode."""
        return self._batcher.stand_in()

    def queries_without_negative(self, rows: np.ndarray) -> int:
        """Returns how many queries of a batch have no negative among its targets, because all of them are relevant to the query."""
        return int(self._related(self._pairs.queries[rows], self._pairs.targets[rows]).all(axis=1).sum())

    def resized(self, batch: PairBatch, micro_batch_size: int | None) -> PairBatch:
        """Returns the same batch in micro-batches of this size."""
        fits = len(batch.inputs) == self._micro_batches(batch.share, len(batch.extras), micro_batch_size)
        return batch if fits else self._make(batch.rows, batch.extras, micro_batch_size)

    def _micro_batches(self, share: int, extras: int, size: int | None) -> int:
        """Returns the number of micro-batches, the same on all processes: a sharded model must run equally often in each."""
        return 1 if size is None else -(-(2 * share + -(-extras // self._processes)) // (2 * size))

    def _make(self, rows: np.ndarray, extras: np.ndarray, micro_batch_size: int | None) -> PairBatch:
        queries, targets = self._pairs.queries[rows], self._pairs.targets[rows]
        share = len(rows) // self._processes
        mine = slice(self._rank * share, (self._rank + 1) * share)
        # Dealt in turn, which spreads long and short items evenly (items are numbered by kind).
        each = -(-len(extras) // self._processes)
        dealt = np.pad(extras, (0, each * self._processes - len(extras)), constant_values=PADDING).reshape(each, self._processes).T
        columns = np.concatenate([targets, dealt.reshape(-1)])
        own_extras = dealt[self._rank][dealt[self._rank] != PADDING]
        roles: list[tuple[Role, np.ndarray]] = [("query", queries[mine]), ("target", targets[mine]), ("target", own_extras)]
        requested = [(int(item), role) for role, items in roles for item in items]
        count = self._micro_batches(share, len(extras), micro_batch_size)
        # An item of several pairs is encoded once, unless that leaves fewer entries than micro-batches.
        places = {entry: place for place, entry in enumerate(dict.fromkeys(requested))}
        chosen = list(places) if len(places) >= count else requested
        inputs, inverse = self._batcher.micro_batches([self._prepared.entry(item, role) for item, role in chosen], count)
        if len(chosen) < len(requested):
            inverse = inverse[[places[entry] for entry in requested]]
        related = self._related(queries[mine], columns) | (columns == PADDING)
        return PairBatch(
            inputs,
            inverse,
            share,
            torch.from_numpy(related),
            torch.from_numpy(self._pairs.relevance[rows[mine]].astype(np.float32)),
            torch.from_numpy(self._share_relevant(queries[mine], queries)) if self._intra_modal else None,
            torch.from_numpy(self._share_relevant(targets[mine], targets)) if self._intra_modal else None,
            rows,
            extras,
        )

    def _related(self, items: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns (items, columns) bool: the column's item is the row's, or is paired with it."""
        owners, related_items = self._relations(items)
        distinct, inverse = np.unique(columns, return_inverse=True)
        places = np.searchsorted(distinct, related_items).clip(max=len(distinct) - 1)
        is_column = distinct[places] == related_items
        related = np.zeros((len(items), len(distinct)), dtype=bool)
        related[owners[is_column], places[is_column]] = True
        return related[:, inverse.reshape(-1)]

    def _share_relevant(self, items: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns (items, columns) bool: both are the same item, or are paired with each other or with the same item."""

        def incidence(of: np.ndarray) -> csr_array:
            owners, related_items = self._relations(of)
            return csr_array((np.ones(len(owners), dtype=np.int32), (owners, related_items)), shape=(len(of), len(self._prepared)))

        common: np.ndarray = (incidence(items) @ incidence(columns).T).toarray() > 0
        return common

    def _relations(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns two arrays: indices into `items`, and for each the item itself and the items paired with it."""
        paired = [self._prepared.related(int(item)) for item in items]
        places = np.arange(len(items))
        return np.concatenate([places, np.repeat(places, [len(row) for row in paired])]), np.concatenate([items, *paired])
