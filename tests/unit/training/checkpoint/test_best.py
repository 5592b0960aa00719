"""Which evaluation is the best, and when training stops early."""

from collections.abc import Sequence

import pytest

from reelnest.training.checkpoint.best import Best


def after(values: Sequence[float | None], metric: str) -> Best:
    best = Best()
    for number, value in enumerate(values, start=1):
        best = best.after(10 * number, value, metric)
    return best


@pytest.mark.parametrize(
    ("metric", "values", "step", "value", "stale"),
    [
        ("ndcg@10", [0.1, 0.4, 0.3], 20, 0.4, 1),
        ("ndcg@10", [0.1, 0.4, 0.3, 0.2, 0.5], 50, 0.5, 0),
        ("median_rank", [7.0, 3.0, 5.0, 4.0], 20, 3.0, 2),
        ("recall@1", [1.0, 1.0, 1.0], 30, 1.0, 2),
        ("recall@1", [None, None], 20, None, 0),
    ],
)
def test_the_best_value_wins_and_of_equals_the_later(
    metric: str, values: list[float | None], step: int, value: float | None, stale: int
) -> None:
    assert after(values, metric) == Best(step, value, stale)


def test_patience_ends_after_so_many_evaluations_without_a_better_one() -> None:
    best = after([0.5, 0.4, 0.5], "mrr")
    assert best.is_final(2)
    assert not best.is_final(3)
    assert not best.is_final(None)
