"""The order of batches."""

import numpy as np
import pytest

from reelnest.errors import DataError
from reelnest.store.prepared import Pairs
from reelnest.training.batches.sampler import BatchOrder, negative_anchors


def test_an_epoch_has_each_pair_at_most_once_and_drops_only_a_remainder() -> None:
    batch_order = BatchOrder(pairs=23, batch_size=4, seed=0)
    rows = batch_order.epoch(0).ravel()
    assert batch_order.epoch(0).shape == (5, 4)
    assert len(set(rows.tolist())) == 20
    assert set(rows.tolist()) <= set(range(23))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    batch_order = BatchOrder(pairs=50, batch_size=10, seed=3)
    batch_order.epoch(0)
    assert np.array_equal(batch_order.epoch(7), BatchOrder(pairs=50, batch_size=10, seed=3).epoch(7))
    assert not np.array_equal(batch_order.epoch(7), batch_order.epoch(8))
    assert not np.array_equal(batch_order.epoch(7), BatchOrder(pairs=50, batch_size=10, seed=4).epoch(7))


def test_every_pair_is_shown_in_some_epoch() -> None:
    batch_order = BatchOrder(pairs=11, batch_size=4, seed=0)
    assert {int(pair) for epoch in range(10) for pair in batch_order.epoch(epoch).ravel()} == set(range(11))


def test_steps_can_begin_anywhere() -> None:
    batch_order = BatchOrder(pairs=40, batch_size=4, seed=0)
    steps = list(batch_order.steps(2, accumulation_steps=3))
    assert [len(step) for step in steps] == [3, 3, 3, 1]
    assert batch_order.steps_per_epoch(3) == 4
    assert np.array_equal(np.concatenate(steps), batch_order.epoch(2))
    resumed = list(batch_order.steps(2, accumulation_steps=3, first=2))
    assert np.array_equal(np.concatenate(resumed), np.concatenate(steps[2:]))


def test_fewer_pairs_than_a_batch_make_one_even_batch() -> None:
    batch_order = BatchOrder.fitting(pairs=7, batch_size=64, seed=0, processes=2)
    assert batch_order.batch_size == 6
    assert batch_order.batches == 1


@pytest.mark.parametrize(("pairs", "processes"), [(0, 1), (1, 1), (3, 4), (1, 2)])
def test_too_few_pairs_are_an_error_that_names_the_required_number(pairs: int, processes: int) -> None:
    with pytest.raises(DataError, match=rf"{pairs} pairs, too few for {processes} processes.*{max(2, processes)}"):
        BatchOrder.fitting(pairs=pairs, batch_size=64, seed=0, processes=processes)


def twins(count: int, others: int) -> Pairs:
    """Queries of two opposite clips each, twice (each clip lists the other as a negative), then pairs without negatives."""
    targets = np.concatenate([np.repeat(np.arange(2 * count), 2), 2 * count + np.arange(others)])
    negatives = [np.array([target ^ 1]) if target < 2 * count else np.array([], dtype=np.int64) for target in targets]
    queries = 1000 + np.arange(len(targets))
    return Pairs(queries, targets, np.ones(len(targets), dtype=np.float32), tuple(negatives))


def test_a_target_and_its_listed_negative_share_a_batch() -> None:
    pairs = twins(count=20, others=16)
    batch_order = BatchOrder(len(pairs), 8, seed=0, anchors=negative_anchors(pairs))
    for epoch in range(3):
        batches = batch_order.epoch(epoch)
        assert sorted(batches.reshape(-1)) == list(range(len(pairs)))
        together = sum(any(targets[j] == targets[i] ^ 1 for j in range(8)) for targets in pairs.targets[batches] for i in range(8))
        assert together >= 0.8 * 80  # a unit may be cut by the end of a batch
    assert not np.array_equal(batch_order.epoch(0), batch_order.epoch(1))
    assert np.array_equal(batch_order.epoch(1), BatchOrder(len(pairs), 8, seed=0, anchors=negative_anchors(pairs)).epoch(1))


def test_a_clip_as_query_belongs_to_the_group_of_the_clip() -> None:
    pairs = Pairs(np.array([9, 0, 1]), np.array([0, 7, 8]), np.ones(3, dtype=np.float32), (np.array([1]), np.array([]), np.array([])))
    anchors = negative_anchors(pairs)
    assert anchors is not None
    assert anchors[:, 1].tolist() == [0, 0, 1]
    assert len(set(anchors[:, 0].tolist())) == 1


def test_without_listed_negatives_the_order_is_the_plain_one() -> None:
    assert negative_anchors(Pairs(np.arange(4), 4 + np.arange(4), np.ones(4, dtype=np.float32), (np.array([]),) * 4)) is None


def tangled(pairs: int, texts: int, videos: int) -> np.ndarray:
    """(pairs, 2) items, some of them in many pairs, videos on both sides."""
    random = np.random.default_rng(4)
    queries, targets = (texts * random.random(pairs) ** 2).astype(np.int64), texts + random.integers(videos, size=pairs)
    return np.where(random.random((pairs, 1)) < 0.2, np.stack([targets, queries], 1), np.stack([queries, targets], 1))


def repeats(items: np.ndarray, batches: np.ndarray) -> int:
    """Counts items of a batch that an earlier pair of the batch already has."""
    count = 0
    for batch in batches:
        seen: set[int] = set()
        for row in batch:
            count += len(seen & set(items[row].tolist()))
            seen |= set(items[row].tolist())
    return count


def test_no_item_is_twice_in_a_batch_and_no_pair_twice_in_an_epoch() -> None:
    items = tangled(pairs=3000, texts=900, videos=700)
    plain, apart = (BatchOrder(3000, 32, seed=1, items=apart_items) for apart_items in (None, items))
    for epoch in range(2):
        assert repeats(items, plain.epoch(epoch)) > 100
        batches = apart.epoch(epoch)
        assert batches.shape == plain.epoch(epoch).shape
        assert repeats(items, batches) == apart.repeated_items(epoch) == 0
        # All but a few pairs of the most frequent items, which are dropped in this epoch.
        assert len(np.unique(batches)) > 0.97 * batches.size
    assert not np.array_equal(apart.epoch(0), apart.epoch(1))
    assert np.array_equal(apart.epoch(1), BatchOrder(3000, 32, seed=1, items=items.copy()).epoch(1))


def test_batches_without_repeats_are_full_even_where_nothing_but_repeats_is_left() -> None:
    items = np.stack([np.arange(40), np.full(40, 99)], axis=1)  # one target for all
    batch_order = BatchOrder(40, 8, seed=0, items=items)
    batches = batch_order.epoch(0)
    assert batches.shape == (5, 8)
    assert all(len(set(batch.tolist())) == 8 for batch in batches)
    assert batch_order.repeated_items(0) == repeats(items, batches) == 5 * 7


def test_a_pair_of_an_item_with_itself_is_no_repeat() -> None:
    items = np.stack([np.arange(8), np.arange(8)], axis=1)
    assert BatchOrder(8, 4, seed=0, items=items).repeated_items(0) == 0


def test_groups_of_listed_negatives_stay_together_in_batches_without_repeats() -> None:
    pairs = twins(count=40, others=0)
    items = np.stack([pairs.queries, pairs.targets], axis=1)
    batch_order = BatchOrder(len(pairs), 8, seed=0, anchors=negative_anchors(pairs), items=items)
    batches = batch_order.epoch(0)
    together = sum(any(targets[j] == targets[i] ^ 1 for j in range(8)) for targets in pairs.targets[batches] for i in range(8))
    assert repeats(items, batches) == 0
    assert together >= 0.8 * batches.size
