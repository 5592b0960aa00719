"""Which pairs are in which batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from reelnest.errors import DataError
from reelnest.store.prepared import Pairs

BATCHES_LOOKED_THROUGH = 50
"""So many batches' worth of pairs may top up a short one; with fewer pairs than that, all of them."""


@dataclass(frozen=True, eq=False)
class BatchOrder:
    """The batches of each epoch, as a function of the seed and the epoch alone.

    The order knows nothing of processes: rank r of n takes the r-th of n equal, contiguous slices of each batch, so that two processes see
    exactly what one would, and a resumed run what an unbroken one would. The pairs that do not fill a last batch wait for another epoch's
    order: batches must be equal, or their losses would not be comparable.

    With `anchors` (see `negative_anchors`), pairs whose listed negatives are each other's targets are neighbours. Random batches seldom
    hold the target that differs in one thing only, and a model does not learn to separate what never shares a batch; here it is one of the
    in-batch negatives, and costs no encoding of its own.

    With `items`, no item is twice in a batch, neither as query nor as target: the second one would be masked, and the batch one
    negative short. A pair that would bring one goes to a later batch. Where that leaves a batch short, it takes pairs of this epoch again,
    and repeats an item only where no other pair is left (the loss then leaves out that item's own columns).
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
        """An order of batches of `batch_size`, or, with fewer pairs than that, of one batch that all processes share evenly.

        Raises DataError if there are too few pairs for each process to have one, or fewer than two.
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
        """(batches, batch_size) int64 row numbers of pairs."""
        random = np.random.default_rng([self.seed, epoch])
        permutation = random.permutation(self.pairs)
        if self.anchors is not None:
            permutation = _grouped(permutation, self.anchors, random)
        if self.items is not None:
            return _without_duplicates(permutation, self.items, self.batches, self.batch_size)
        return permutation[: self.batches * self.batch_size].reshape(self.batches, self.batch_size)

    def repeated_items(self, epoch: int) -> int:
        """How often, in an epoch, an item is in a batch that already holds it."""
        if self.items is None:
            return 0
        batches = self.items[self.epoch(epoch)]  # (batches, batch_size, 2)
        itself = int((batches[..., 0] == batches[..., 1]).sum())  # such a pair brings its item once
        return sum(batch.size - len(np.unique(batch)) for batch in batches) - itself

    def steps(self, epoch: int, accumulation_steps: int, first: int = 0) -> Iterator[np.ndarray]:
        """The batches of each optimizer step of an epoch, from step `first` on: (up to accumulation_steps, batch_size)."""
        batches = self.epoch(epoch)
        for start in range(first * accumulation_steps, self.batches, accumulation_steps):
            yield batches[start : start + accumulation_steps]

    def steps_per_epoch(self, accumulation_steps: int) -> int:
        """Optimizer steps in an epoch; the last one has fewer batches where accumulation_steps does not divide them."""
        return -(-self.batches // accumulation_steps)


def _grouped(permutation: np.ndarray, anchors: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Pairs in units that stay together, units in random order. A group's n-th unit holds the n-th pair of each of its anchors."""
    seen: dict[int, int] = {}
    turns = np.empty(len(permutation), dtype=np.int64)  # this pair is its anchor's n-th in this epoch
    for index, anchor in enumerate(anchors[permutation, 1].tolist()):
        turns[index] = seen[anchor] = seen.get(anchor, -1) + 1
    _, units = np.unique(np.stack([anchors[permutation, 0], turns], axis=1), axis=0, return_inverse=True)
    shuffled = random.permutation(int(units.max()) + 1)[units.reshape(-1)]
    return permutation[np.argsort(shuffled, kind="stable")]


def _without_duplicates(permutation: np.ndarray, items: np.ndarray, batches: int, batch_size: int) -> np.ndarray:
    """(batches, batch_size) rows, each pair in the first batch that has room and neither of its items."""
    filled: list[list[int]] = [[] for _ in range(batches)]
    # An item's batches rise, so one number an item says where to look on: the whole order takes time in proportion to its pairs.
    after: dict[int, int] = {}
    first_open = 0
    for row, (query, target) in zip(permutation.tolist(), items[permutation].tolist(), strict=True):
        batch = max(first_open, after.get(query, 0), after.get(target, 0))
        while batch < batches and len(filled[batch]) == batch_size:
            batch += 1
        if batch == batches:
            continue  # waits for another epoch
        filled[batch].append(row)
        after[query] = after[target] = batch + 1
        while first_open < batches and len(filled[first_open]) == batch_size:
            first_open += 1
    for batch, rows in enumerate(filled):
        if len(rows) < batch_size:
            _top_up(rows, np.roll(permutation, -batch * batch_size)[: BATCHES_LOOKED_THROUGH * batch_size], items, batch_size)
    return np.array(filled, dtype=np.int64).reshape(batches, batch_size)


def _top_up(rows: list[int], others: np.ndarray, items: np.ndarray, batch_size: int) -> None:
    """Fills a batch with other pairs: those without one of its items, and then any that it does not hold."""
    held = set(items[rows].reshape(-1).tolist())
    for row, (query, target) in zip(others.tolist(), items[others].tolist(), strict=True):
        if len(rows) == batch_size:
            return
        if query not in held and target not in held:
            rows.append(row)
            held |= {query, target}
    rows += others[~np.isin(others, rows)][: batch_size - len(rows)].tolist()


def negative_anchors(pairs: Pairs) -> np.ndarray | None:
    """The group and the anchor of each pair, (pairs, 2) int64; None where no pair lists a negative.

    A target and a listed negative of the same pair are one group (with what is grouped with either of them, and so on). A
    pair's anchor is the item through which it belongs to a group: its target, or else its query. A pair of no group is one of its own.
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
    # Items and groups are numbered from 0 up: a negative number is no other pair's.
    own = -1 - np.arange(len(pairs))
    return np.stack([np.where(grouped[anchors], group_of[anchors], own), np.where(grouped[anchors], anchors, own)], axis=1)
