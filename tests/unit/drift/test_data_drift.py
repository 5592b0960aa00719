"""The two-sample tests detect what changed and nothing else, on enough seeds to count false alarms."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import energy_distance, wasserstein_distance
from scipy.stats.contingency import association

from reelnest.drift import measures as drift
from reelnest.drift.measures import (
    Shift,
    counts_shift,
    decide_drift,
    fall,
    histogram,
    least_alike,
    numbers_shift,
    sampled,
    vectors_shift,
)

SEEDS = 60
KINDS = ("text_to_video", "video_to_video", "text_to_text")


def counts(random: np.random.Generator, shares: tuple[float, ...], number: int) -> dict[str, int]:
    return dict(zip(KINDS, map(int, random.multinomial(number, shares)), strict=True))


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def all_shifts(random: np.random.Generator, *, moved: str = "", margin: float = 0.0) -> list[Shift]:
    """All shifts between two samples of one distribution, except for the measure `moved`."""

    def by(name: str, amount: float) -> float:
        return amount if moved == name else 0.0

    shifts = [
        numbers_shift("lengths", random.poisson(30, 300), random.poisson(30 + by("lengths", 5), 200), margin),
        numbers_shift("seconds", random.gamma(2, 4, 100), random.gamma(2, 4, 120) + by("seconds", 4), margin),
        counts_shift(
            "kinds",
            counts(random, (0.6, 0.3, 0.1), 300),
            counts(random, (0.6 - by("kinds", 0.3), 0.3, 0.1 + by("kinds", 0.3)), 200),
            margin,
        ),
        vectors_shift("vectors", unit(random.normal(size=(60, 16))), unit(random.normal(size=(50, 16)) + by("vectors", 0.5)), margin),
        fall("retrieval", random.random(150) < 0.8, random.random(150) < 0.8 - by("retrieval", 0.3), margin),
    ]
    return [shift for shift in shifts if shift is not None]


def test_false_alarms_are_no_more_frequent_than_the_confidence_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "PERMUTATIONS", 999)  # enough for this confidence
    alarms = sum(any(verdict.drifted for verdict in decide_drift(all_shifts(np.random.default_rng(seed)), 0.9)) for seed in range(SEEDS))
    # 1 in 10 is allowed: in 60 trials, more than 11 have a probability of about 1 %.
    assert alarms <= 11


@pytest.mark.parametrize("moved", ["lengths", "seconds", "kinds", "vectors", "retrieval"])
def test_what_moved_is_named_and_nothing_else(moved: str) -> None:
    for seed in range(3):
        verdicts = decide_drift(all_shifts(np.random.default_rng([seed, 9]), moved=moved, margin=0.1), 0.999)
        assert [verdict.shift.measure for verdict in verdicts if verdict.drifted] == [moved]


def test_a_significant_difference_below_the_margin_is_no_drift() -> None:
    random = np.random.default_rng(0)
    before, after = random.normal(size=20_000), random.normal(0.15, size=20_000)
    small = numbers_shift("lengths", before, after, margin=0.1)
    assert small is not None
    assert small.p < 1e-9
    assert not decide_drift([small], 0.95)[0].drifted
    assert decide_drift([Shift(**{**vars(small), "margin": 0.05})], 0.95)[0].drifted


def test_more_measures_require_more_evidence_and_less_confidence_requires_less() -> None:
    shift = Shift("one", "D", 0.5, 0.03, 10, 10, 0.1)
    assert decide_drift([shift], 0.95)[0].drifted
    assert not decide_drift([shift, shift], 0.95)[0].drifted
    assert decide_drift([shift, shift], 0.9)[0].drifted


def test_the_energy_effect_is_that_of_scipys_distance_in_one_dimension() -> None:
    random = np.random.default_rng(3)
    before, after = random.normal(size=(400, 1)), random.normal(0.7, size=(400, 1))
    shift = vectors_shift("v", before.astype(np.float32), after.astype(np.float32), 0.1)
    assert shift is not None
    between = np.abs(before - after.T).mean()
    # scipy's distance is biased by the mean distance within each version, divided by the number of values.
    chance = (pdist(before).mean() + pdist(after).mean()) / 400
    assert shift.effect == pytest.approx(np.sqrt((energy_distance(before[:, 0], after[:, 0]) ** 2 - chance) / (2 * between)), abs=2e-3)
    assert wasserstein_distance(before[:, 0], after[:, 0]) > 0.5  # they do differ


@pytest.mark.parametrize("size", [100, 1000, 100_000])
def test_the_effect_of_counts_does_not_depend_on_the_sizes_of_the_versions(size: int) -> None:
    shift = counts_shift("kinds", {"a": 50_000, "b": 50_000}, {"a": size}, 0.1)
    assert shift is not None
    expected = association(np.array([[50, 50], [100, 0]]), method="cramer", correction=False)
    assert shift.effect == pytest.approx(expected)
    assert decide_drift([shift], 0.999)[0].drifted


def test_versions_that_share_most_of_their_items_are_no_drift() -> None:
    random = np.random.default_rng(1)
    shared = unit(random.normal(size=(80, 8)))
    same = vectors_shift("v", shared, shared, 0.0)
    assert same is not None
    assert (same.effect, same.p) == (0.0, 1.0)


@pytest.mark.parametrize(
    "shift",
    [
        lambda: numbers_shift("n", [], [1.0, 2.0], 0.1),
        lambda: numbers_shift("n", [1.0, 2.0], [1.0], 0.1),
        lambda: counts_shift("k", {}, {"text_to_video": 3}, 0.1),
        lambda: counts_shift("k", {}, {}, 0.1),
        lambda: vectors_shift("v", np.ones((1, 4), np.float32), np.ones((9, 4), np.float32), 0.1),
        lambda: fall("f", [], [0.5, 0.5], 0.1),
    ],
)
def test_too_few_values_are_not_compared(shift: Callable[[], Shift | None]) -> None:
    assert shift() is None


def test_equal_values_and_one_kind_do_not_differ() -> None:
    shifts = [
        numbers_shift("n", [0.0] * 5, [0.0] * 9, 0.0),
        counts_shift("k", {"text_to_video": 5}, {"text_to_video": 9}, 0.0),
        vectors_shift("v", np.ones((5, 4), np.float32), np.ones((9, 4), np.float32), 0.0),
        fall("f", [1.0] * 5, [1.0] * 9, 0.0),
    ]
    assert [(shift.effect, shift.p) for shift in shifts if shift is not None] == [(0.0, 1.0)] * 4


def test_the_sample_is_the_same_each_time_whatever_the_order_of_the_file() -> None:
    ids = [f"v{number}" for number in range(1000)]
    assert sampled(ids, 50) == sampled(ids[::-1], 50)
    assert len(set(sampled(ids, 50))) == 50
    assert sampled(ids[:30], 50) == sorted(ids[:30])


def test_bins_are_shared_cover_all_values_and_have_integer_widths_for_integers() -> None:
    integers = histogram([1, 2, 2, 3] * 50, [2, 3, 900])
    assert np.diff(integers["edges"]).tolist() == [1.0] * (len(integers["edges"]) - 1)
    assert [sum(integers[side]) for side in ("before", "after")] == pytest.approx([1, 1])
    fractions = histogram([0.5, 0.7], [0.5])
    assert sum(fractions["after"]) == pytest.approx(1)
    assert sum(histogram([2.5], [2.5])["before"]) == pytest.approx(1)


def test_the_least_similar_new_vectors_come_first() -> None:
    before = np.eye(3, dtype=np.float32)[:2]
    after = unit(np.array([[1, 0, 0], [0, 0, 1], [0, 1, 1]], dtype=np.float32))
    assert [row for row, _ in least_alike(before, after, 2)] == [1, 2]
    assert least_alike(before[:0], after, 2) == []
