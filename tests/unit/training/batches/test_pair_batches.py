"""The negatives of each item compared with the definition."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from reelnest.encoder.batches import Batcher
from reelnest.store.entries import Entry, Role
from reelnest.store.prepared import Pairs, Prepared
from reelnest.training.batches.pair_batches import PADDING, PairBatch, PairBatcher

# (query, target): two queries with one target, one query with two targets, a chain, an item as query and as target
PAIRS = [(0, 10), (1, 10), (2, 11), (2, 12), (3, 13), (13, 3), (4, 14), (5, 15)]
# A pair of another split: its items are not negatives either.
ELSEWHERE = [(4, 15)]
NEGATIVES = {0: [20, 21], 1: [21], 2: [10, 22], 3: [], 4: [23], 5: [20], 6: [24], 7: [25, 12]}
ITEMS = 30


class Items:
    """Items that are their own numbers."""

    def __len__(self) -> int:
        return ITEMS

    def entry(self, item: int, role: Role) -> Entry:
        return Entry(role, str(item), None)

    def related(self, item: int) -> np.ndarray:
        both = [pair for pair in PAIRS + ELSEWHERE if item in pair]
        return np.array(sorted({paired for pair in both for paired in pair} - {item}), dtype=np.int64)


class Entries:
    """Makes batches of only the entries' roles and texts."""

    def micro_batches(self, entries: list[Entry], count: int) -> tuple[list[Any], Tensor]:
        named = [(entry.role, int(entry.text)) for entry in entries]
        places = np.arange(len(named))[::-1]  # backwards, so that the order matters
        return [[named[place] for place in indices] for indices in np.array_split(places, count)], torch.from_numpy(np.argsort(places))


def share(rank: int, processes: int, micro_batch_size: int | None = None, *, intra_modal: bool = False) -> PairBatch:
    sides = np.array(PAIRS)
    grades = np.arange(len(PAIRS), dtype=np.float32)
    pairs = Pairs(sides[:, 0], sides[:, 1], grades, tuple(np.array(NEGATIVES[row], dtype=np.int64) for row in range(len(PAIRS))))
    make = PairBatcher(
        cast("Prepared", Items()),
        pairs,
        cast("Batcher", Entries()),
        rank,
        processes,
        negatives=lambda row: pairs.negatives[row],
        intra_modal=intra_modal,
    )
    return make(np.arange(len(PAIRS)), micro_batch_size)


def entries_of(batch: PairBatch) -> list[tuple[Role, int]]:
    """Returns roles and items in the order of the loss's vectors."""
    rows = [named for inputs in cast("list[list[tuple[Role, int]]]", batch.inputs) for named in inputs]
    return [rows[place] for place in batch.inverse]


def known(query: int, target: int) -> bool:
    return query == target or (query, target) in PAIRS + ELSEWHERE or (target, query) in PAIRS + ELSEWHERE


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_columns_are_all_targets_and_then_each_extra_negative_once(processes: int) -> None:
    shares = [share(rank, processes) for rank in range(processes)]
    own = [entries_of(batch) for batch in shares]
    count = len(PAIRS) // processes
    columns: list[int] = [target for _, target in PAIRS]
    extras = [[item for _, item in entries[2 * count :]] for entries in own]
    each = max(map(len, extras))
    for items in extras:
        columns += items + [PADDING] * (each - len(items))
    # 10 and 12 are some pair's targets, and columns in any case.
    assert sorted(item for items in extras for item in items) == [20, 21, 22, 23, 24, 25]
    for rank, (batch, entries) in enumerate(zip(shares, own, strict=True)):
        mine = PAIRS[rank * count : (rank + 1) * count]
        expected = [("query", query) for query, _ in mine] + [("target", target) for _, target in mine]
        assert entries[: 2 * count] == expected
        assert {role for role, _ in entries[2 * count :]} <= {"target"}
        assert batch.related.tolist() == [[column == PADDING or known(query, column) for column in columns] for query, _ in mine]
        assert batch.relevance.tolist() == list(range(rank * count, (rank + 1) * count))


@pytest.mark.parametrize("processes", [1, 2])
def test_items_of_one_side_are_related_where_they_are_the_same_or_share_a_relevant_item(processes: int) -> None:
    def alike(a: int, b: int) -> bool:
        return known(a, b) or any(known(a, item) and known(b, item) for item in range(ITEMS))

    for rank in range(processes):
        batch = share(rank, processes, intra_modal=True)
        mine = PAIRS[rank * batch.share : (rank + 1) * batch.share]
        assert batch.related_queries is not None
        assert batch.related_targets is not None
        assert batch.related_queries.tolist() == [[alike(query, column) for column, _ in PAIRS] for query, _ in mine]
        assert batch.related_targets.tolist() == [[alike(target, column) for _, column in PAIRS] for _, target in mine]
    assert share(0, processes).related_queries is None


@pytest.mark.parametrize(("size", "expected"), [(None, 1), (4, 2), (3, 2), (2, 3), (1, 6)])
def test_all_processes_have_the_same_number_of_micro_batches_of_the_same_entries(size: int | None, expected: int) -> None:
    for rank in (0, 1):  # 4 pairs each and 3 extra negatives: 11 entries
        batch = share(rank, 2, size)
        assert len(batch.inputs) == expected
        assert entries_of(batch) == entries_of(share(rank, 2))


def test_a_batch_made_again_in_other_micro_batches_is_the_same_batch() -> None:
    drawn = iter(range(20, ITEMS))
    make = PairBatcher(
        cast("Prepared", Items()),
        Pairs(*np.array(PAIRS).T, np.ones(len(PAIRS), dtype=np.float32), ()),
        cast("Batcher", Entries()),
        0,
        1,
        negatives=lambda _row: np.array([next(drawn)]),  # different at each call, as after mining
    )
    batch = make(np.arange(len(PAIRS)))
    assert make.resized(batch, None) is batch
    again = make.resized(batch, 2)
    assert len(again.inputs) > 1
    assert entries_of(again) == entries_of(batch)
    assert torch.equal(again.related, batch.related)
