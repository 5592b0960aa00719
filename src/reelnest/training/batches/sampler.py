"""Divides pairs into batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from reelnest.errors import DataError
from reelnest.store.prepared import Pairs

BATCHES_LOOKED_THROUGH = 50
"""The number of batches of pairs that may fill a short batch."""


@dataclass(frozen=True, eq=False)
class BatchOrder:
    """The batches of each epoch, a function of seed and epoch only.

    The order does not depend on processes: rank r of n takes the r-th of n equal, contiguous slices of each batch. So several processes, or
    a resumed run, see the same batches as one uninterrupted process. Pairs that do not fill the last batch are dropped in this epoch:
    losses of batches of different sizes would not be comparable.

    With `anchors` (see `negative_anchors`), pairs whose listed negatives are each other's targets share a batch. Random batches rarely
    contain such near duplicates, and a model does not learn to separate items that never share a batch. Here they are in-batch negatives
    and need no extra encoding.

    With `items`, no item occurs twice in a batch, as query or as target: the loss would mask the second one, which costs a negative. Such a
    pair moves to a later batch. A short batch is filled with other pairs of this epoch; it repeats an item only if no other pair is left
    (the loss then masks that item's own columns).
    """

    pairs: int
    batch_size: int
    seed: int
    anchors: np.ndarray | None = None  # (pairs, 2) int64
    items: np.ndarray | None = None  # (pairs, 2) int64, each pair's query and target

    @classmethod
    def fitting(
        cls, pairs: int, batch_size: int, seed: int, processes: int, anchors: np.ndarray | None = None, items: np.ndarray | None = None
    ) -> Self:
        """Returns an order with batches of `batch_size`; with fewer pairs, one batch that the processes share evenly.

        Raises DataError for fewer than two pairs, or fewer than one per process.
        """
        fitting = min(batch_size, pairs // processes * processes)
        if fitting < max(2, processes):
            raise DataError(
                f"prepared/pairs.parquet: the training split has {pairs} pairs, too few for {processes} processes, which need at least"
                f" {max(2, processes)}. Add pairs to data/pairs.jsonl, or lower data.validation_fraction and data.test_fraction."
            )
        return cls(pairs, fitting, seed, anchors, items)

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return self.pairs // self.batch_size

    def epoch(self, epoch: int) -> np.ndarray:
        """Returns row numbers of pairs, int64 (batches, batch_size)."""
        random = np.random.default_rng([self.seed, epoch])
        permutation = random.permutation(self.pairs)
        if self.anchors is not None:
            permutation = _grouped(permutation, self.anchors, random)
        if self.items is not None:
            return _without_duplicates(permutation, self.items, self.batches, self.batch_size)
        return permutation[: self.batches * self.batch_size].reshape(self.batches, self.batch_size)

    def repeated_items(self, epoch: int) -> int:
        """Returns the number of repeated items in the batches of an epoch."""
        if self.items is None:
            return 0
        batches = self.items[self.epoch(epoch)]  # (batches, batch_size, 2)
        itself = int((batches[..., 0] == batches[..., 1]).sum())  # a pair of an item with itself is not a repeat
        return sum(batch.size - len(np.unique(batch)) for batch in batches) - itself

    def steps(self, epoch: int, accumulation_steps: int, first: int = 0) -> Iterator[np.ndarray]:
        """Yields the batches of each optimizer step of an epoch, from step `first` on: (up to accumulation_steps, batch_size)."""
        batches = self.epoch(epoch)
        for start in range(first * accumulation_steps, self.batches, accumulation_steps):
            yield batches[start : start + accumulation_steps]

    def steps_per_epoch(self, accumulation_steps: int) -> int:
        """Returns the optimizer steps per epoch; the last one may have fewer batches than accumulation_steps."""
        return -(-self.batches // accumulation_steps)


def _grouped(permutation: np.ndarray, anchors: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shuffles units of pairs that stay together. A group's n-th unit holds the n-th pair of each of its anchors."""
    seen: dict[int, int] = {}
    turns = np.empty(len(permutation), dtype=np.int64)  # n for the anchor's n-th pair in this epoch
    for index, anchor in enumerate(anchors[permutation, 1].tolist()):
        turns[index] = seen[anchor] = seen.get(anchor, -1) + 1
    _, units = np.unique(np.stack([anchors[permutation, 0], turns], axis=1), axis=0, return_inverse=True)
    shuffled = random.permutation(int(units.max()) + 1)[units.reshape(-1)]
    return permutation[np.argsort(shuffled, kind="stable")]


def _without_duplicates(permutation: np.ndarray, items: np.ndarray, batches: int, batch_size: int) -> np.ndarray:
    """Returns rows, (batches, batch_size): each pair is in the first batch with space and without its items."""
    filled: list[list[int]] = [[] for _ in range(batches)]
    # An item's batch numbers ascend, so one number per item is enough to continue: total time is linear in the pairs.
    after: dict[int, int] = {}
    first_open = 0
    for row, (query, target) in zip(permutation.tolist(), items[permutation].tolist(), strict=True):
        batch = max(first_open, after.get(query, 0), after.get(target, 0))
        while batch < batches and len(filled[batch]) == batch_size:
            batch += 1
        if batch == batches:
            continue  # dropped in this epoch
        filled[batch].append(row)
        after[query] = after[target] = batch + 1
        while first_open < batches and len(filled[first_open]) == batch_size:
            first_open += 1
    for batch, rows in enumerate(filled):
        if len(rows) < batch_size:
            _top_up(rows, np.roll(permutation, -batch * batch_size)[: BATCHES_LOOKED_THROUGH * batch_size], items, batch_size)
    return np.array(filled, dtype=np.int64).reshape(batches, batch_size)


def _top_up(rows: list[int], candidates: np.ndarray, items: np.ndarray, batch_size: int) -> None:
    """Fills a batch with other pairs: first those without its items, then any that it does not contain."""
    held = set(items[rows].reshape(-1).tolist())
    for row, (query, target) in zip(candidates.tolist(), items[candidates].tolist(), strict=True):
        if len(rows) == batch_size:
            return
        if query not in held and target not in held:
            rows.append(row)
            held |= {query, target}
    rows += candidates[~np.isin(candidates, rows)][: batch_size - len(rows)].tolist()


def negative_anchors(pairs: Pairs) -> np.ndarray | None:
    """Returns the group and the anchor of each pair, (pairs, 2) int64; None if no pair lists a negative.

    Groups are the connected components of targets and their pairs' listed negatives. A pair's anchor is its item in a group: its target, or
    else its query. A pair without a group forms a group by itself.
    """
    counts = [len(negatives) for negatives in pairs.negatives]
    if not any(counts):
        return None
    targets, negatives = np.repeat(pairs.targets, counts), np.concatenate(pairs.negatives).astype(np.int64)
    items = 1 + int(max(pairs.queries.max(), pairs.targets.max(), negatives.max()))
    _, group_of = connected_components(coo_array((np.ones(len(targets)), (targets, negatives)), shape=(items, items)), directed=False)
    grouped = np.zeros(items, dtype=bool)
    grouped[targets] = grouped[negatives] = True
    anchors = np.where(grouped[pairs.targets], pairs.targets, pairs.queries)
    # Items and groups have numbers from 0, so negative numbers are unique to a pair.
    own = -1 - np.arange(len(pairs))
    return np.stack([np.where(grouped[anchors], group_of[anchors], own), np.where(grouped[anchors], anchors, own)], axis=1)
