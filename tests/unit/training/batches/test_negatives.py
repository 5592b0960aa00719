"""Renewals of extra negatives, and listed negatives."""

from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from reelnest.settings import Params
from reelnest.store.prepared import ITEMS_SCHEMA, PAIRS_SCHEMA, Prepared
from reelnest.training.batches.negatives import ExtraNegatives


def negatives_of(rows: list[tuple[int, int, list[int]]], **settings: Any) -> ExtraNegatives:
    """Over 10 texts and pairs (query, target, negatives); 5 steps per epoch. Without mining nothing is embedded."""
    items = pa.Table.from_pylist([{"kind": "text", "key": str(i), "fields": []} for i in range(10)], schema=ITEMS_SCHEMA)
    columns = [{"query": q, "target": t, "relevance": 1.0, "split": "train", "negatives": n} for q, t, n in rows]
    prepared = Prepared(cast("Any", ()), items, pa.Table.from_pylist(columns, schema=PAIRS_SCHEMA))
    return ExtraNegatives(
        prepared,
        prepared.pairs("train"),
        cast("Any", None),
        cast("Any", None),
        Params.model_validate({"mining": {"listed": "only", "negatives_per_pair": 2, **settings}}),
        steps_per_epoch=5,
    )


ROWS = [(0, 1, [2, 3]), (0, 4, []), (5, 6, [7]), (8, 9, [5, 6, 7, 2, 3])]


def test_listed_negatives_are_each_pairs_own() -> None:
    negatives = negatives_of(ROWS)
    assert len(negatives(0)) == 0
    assert negatives.renew(0) == {"mining/negatives_per_pair": 5 / 4}
    assert [sorted(negatives(row).tolist()) for row in range(3)] == [[2, 3], [], [7]]


def test_of_more_listed_negatives_than_fit_each_renewal_draws_others() -> None:
    negatives = negatives_of(ROWS)
    seen: set[int] = set()
    for step in range(0, 50, 5):
        negatives.renew(step)
        drawn = negatives(3).tolist()
        assert len(set(drawn)) == 2
        seen |= set(drawn)
    assert seen == {5, 6, 7, 2, 3}


def test_a_listed_negative_that_is_relevant_in_another_pair_is_left_out() -> None:
    negatives = negatives_of([(0, 1, [2, 3]), (0, 3, [1]), (2, 0, [4])])
    negatives.renew(0)
    assert [negatives(row).tolist() for row in range(3)] == [[], [], [4]]


@pytest.mark.parametrize(
    ("settings", "renewed"),
    [
        ({}, [0, 5, 10]),
        ({"every_steps": 4}, [0, 4, 8, 12]),
        ({"every_steps": 7, "start_epoch": 1}, [0, 5, 7, 14]),
        ({"every_steps": 100, "start_epoch": 2}, [0, 10]),
    ],
)
def test_renewals_come_at_their_steps(settings: dict[str, int], renewed: list[int]) -> None:
    negatives = negatives_of(ROWS, **settings)
    step, renewals = 0, []
    while step < 15:
        if negatives.steps_until_renewal(step) == 0:
            negatives.renew(step)
            renewals.append(step)
        assert negatives.steps_until_renewal(step) > 0
        step += 1
    assert renewals == renewed


def test_a_stretch_ends_where_the_next_renewal_is_due() -> None:
    negatives = negatives_of(ROWS, every_steps=7, start_epoch=1)
    negatives.renew(0)
    assert [negatives.steps_until_renewal(step) for step in (0, 3, 5)] == [5, 2, 0]
    negatives.renew(5)
    assert [negatives.steps_until_renewal(step) for step in (5, 6, 7)] == [2, 1, 0]


def test_state_brings_back_the_table_and_the_step_it_was_made_for() -> None:
    original = negatives_of(ROWS)
    original.renew(5)
    restored = negatives_of(ROWS)
    restored.load_state(original.state())
    assert all(np.array_equal(restored(row), original(row)) for row in range(len(ROWS)))
    assert restored.steps_until_renewal(5) == original.steps_until_renewal(5) == 5
