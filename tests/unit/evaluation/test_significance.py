"""Intervals over queries, against scipy's bootstrap and against the share of intervals that hold the truth."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from reelnest.evaluation import significance
from reelnest.evaluation.significance import bootstrap_intervals


@pytest.mark.parametrize("queries", [40, 41])
def test_intervals_are_those_of_scipys_bootstrap(queries: int) -> None:
    random = np.random.default_rng(0)
    values = {"recall@1": (random.random(queries) < 0.3).astype(float), "mrr": random.random(queries)}
    values["median_rank"] = random.integers(1, 50, size=queries).astype(float)
    found = bootstrap_intervals(values, confidence=0.9, medians=["median_rank"])
    assert list(found) == list(values)
    for name, statistic in (("recall@1", np.mean), ("mrr", np.mean), ("median_rank", np.median)):
        expected = bootstrap(
            (values[name],), statistic, confidence_level=0.9, n_resamples=20_000, method="percentile", rng=1
        ).confidence_interval
        # Percentiles of 2,000 samples lie within a tenth of the interval's length, or on the next rank, or one query farther.
        room = 2.0 if name == "median_rank" else max(0.1 * (expected.high - expected.low), 1.01 / queries)
        assert found[name] == pytest.approx((expected.low, expected.high), abs=room)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        low, high = bootstrap_intervals({"recall@10": (random.random(200) < 0.7).astype(float)}, confidence=0.95)["recall@10"]
        held += low <= 0.7 <= high
    assert 180 <= held <= 198  # 190 expected, with a standard deviation of 3.1; percentile intervals are a little short


def test_what_is_drawn_does_not_hang_on_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"mrr": np.random.default_rng(0).random(30)}
    expected = bootstrap_intervals(values, confidence=0.95)
    monkeypatch.setattr(significance, "HELD", 100)
    assert bootstrap_intervals(values, confidence=0.95)["mrr"] == pytest.approx(expected["mrr"])


def test_figures_of_the_same_queries_are_drawn_together() -> None:
    first = np.random.default_rng(0).random(50)
    same = {"a": first, "b": first + 0.1, "difference": np.full(50, 0.1)}
    found = bootstrap_intervals(same, confidence=0.95)
    assert found["b"] == pytest.approx([end + 0.1 for end in found["a"]])
    assert found["difference"] == pytest.approx([0.1, 0.1])


def test_one_query_has_an_interval_without_length() -> None:
    assert bootstrap_intervals({"mrr": np.array([0.5]), "median_rank": np.array([2.0])}, 0.95, medians=["median_rank"]) == {
        "mrr": (0.5, 0.5),
        "median_rank": (2.0, 2.0),
    }
