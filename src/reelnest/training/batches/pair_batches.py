"""From row numbers of pairs to what one process embeds in a contrastive batch, and who is whose negative there."""

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
"""From a pair's row number to its negatives, besides the other pairs' targets."""

PADDING = -1
"""In place of an item where a process has one extra negative fewer than another."""


@dataclass
class PairBatch:
    """One process's share of a contrastive batch, ready for the model.

    The columns that a query is compared with are the targets of all pairs of the batch, in the pairs' order, and then the extra negatives
    of one process after the other, as many for each (padded).
    """

    inputs: Sequence[Batch]
    """The share's queries, its targets and its extra negatives, each item once, in micro-batches of like kinds and lengths, as many in
    each process."""
    inverse: Tensor
    """int64, the inverse of the permutation that makes micro-batches: their vectors, one after the other, indexed with it, are those of the
    queries, the targets and the extra negatives. An item of several pairs occurs as often as they name it."""
    share: int
    """Pairs of this process."""
    related: Tensor
    """bool (share, columns): the column is no negative of the query, since it is known to be relevant, the same item, or padding."""
    relevance: Tensor
    """float32 (share,): the grade of each pair."""
    related_queries: Tensor | None
    """bool (share, pairs): the query at the column is the same as the row's, or the same target is relevant to both. None unless the loss
    needs it."""
    related_targets: Tensor | None
    """bool (share, pairs): the same for targets."""
    rows: np.ndarray
    """The whole batch's pairs, int64 (pairs,), and"""
    extras: np.ndarray
    """its extra negatives, int64 (extras,): from both of them it can be made again in other micro-batches."""

    @property
    def layouts(self) -> Sequence[Batch]:
        """The micro-batches as far as sizes go; videos may lack their contents."""
        return self.inputs.layouts() if isinstance(self.inputs, MicroBatches) else self.inputs


class PairBatcher:
    """Makes a process's share of a batch from row numbers of pairs.

    Each process knows the whole batch and works out the same, so nothing has to be said between them. A negative that several pairs name,
    or that is some pair's target, is one column.
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
        """`intra_modal`: batches also say which queries, and which targets, are related to each other."""
        self._prepared = prepared
        self._pairs = pairs
        self._batcher = batcher
        self._rank = rank
        self._processes = processes
        self._negatives = negatives
        self._intra_modal = intra_modal

    def __call__(self, rows: np.ndarray, micro_batch_size: int | None = None) -> PairBatch:
        """`rows` are the whole batch's, of which this process encodes its contiguous slice: so many pairs at once; None for all."""
        extras = np.empty(0, dtype=np.int64)
        if self._negatives is not None:
            extras = np.setdiff1d(np.concatenate([self._negatives(int(row)) for row in rows]), self._pairs.targets[rows])
        return self._make(rows, extras.astype(np.int64), micro_batch_size)

    def resized(self, batch: PairBatch, micro_batch_size: int | None) -> PairBatch:
        """The same batch in micro-batches of this size."""
        fits = len(batch.inputs) == self._micro_batches(batch.share, len(batch.extras), micro_batch_size)
        return batch if fits else self._make(batch.rows, batch.extras, micro_batch_size)

    def _micro_batches(self, share: int, extras: int, size: int | None) -> int:
        """How many, from numbers that all processes know: a sharded model has to run equally often in each of them."""
        return 1 if size is None else -(-(2 * share + -(-extras // self._processes)) // (2 * size))

    def _make(self, rows: np.ndarray, extras: np.ndarray, micro_batch_size: int | None) -> PairBatch:
        queries, targets = self._pairs.queries[rows], self._pairs.targets[rows]
        share = len(rows) // self._processes
        mine = slice(self._rank * share, (self._rank + 1) * share)
        # In turn, so that long and short ones (items are numbered by kind) are spread evenly.
        each = -(-len(extras) // self._processes)
        dealt = np.pad(extras, (0, each * self._processes - len(extras)), constant_values=PADDING).reshape(each, self._processes).T
        columns = np.concatenate([targets, dealt.reshape(-1)])
        own_extras = dealt[self._rank][dealt[self._rank] != PADDING]
        roles: list[tuple[Role, np.ndarray]] = [("query", queries[mine]), ("target", targets[mine]), ("target", own_extras)]
        requested = [(int(item), role) for role, items in roles for item in items]
        count = self._micro_batches(share, len(extras), micro_batch_size)
        # An item of several pairs is encoded once, unless there would be fewer entries than micro-batches.
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
            torch.from_numpy(self._in_common(queries[mine], queries)) if self._intra_modal else None,
            torch.from_numpy(self._in_common(targets[mine], targets)) if self._intra_modal else None,
            rows,
            extras,
        )

    def _related(self, items: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(items, columns) bool: the column's item is the row's, or is known to be paired with it."""
        owners, others = self._relations(items)
        distinct, inverse = np.unique(columns, return_inverse=True)
        places = np.searchsorted(distinct, others).clip(max=len(distinct) - 1)
        is_column = distinct[places] == others
        related = np.zeros((len(items), len(distinct)), dtype=bool)
        related[owners[is_column], places[is_column]] = True
        return related[:, inverse.reshape(-1)]

    def _in_common(self, items: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(items, columns) bool: both are the same item, or are paired with each other or with the same one."""

        def incidence(of: np.ndarray) -> csr_array:
            owners, others = self._relations(of)
            return csr_array((np.ones(len(owners), dtype=np.int32), (owners, others)), shape=(len(of), len(self._prepared)))

        common: np.ndarray = (incidence(items) @ incidence(columns).T).toarray() > 0
        return common

    def _relations(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each item itself and all that are paired with it: the item's place in `items`, and the other."""
        paired = [self._prepared.related(int(item)) for item in items]
        places = np.arange(len(items))
        return np.concatenate([places, np.repeat(places, [len(others) for others in paired])]), np.concatenate([items, *paired])
