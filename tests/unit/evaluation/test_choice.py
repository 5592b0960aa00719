"""Which configuration is enough: planted figures of 400 queries."""

import numpy as np
import pytest

from reelnest.evaluation.choice import Choice, smallest
from reelnest.evaluation.configurations import Configuration

QUERIES = 400


def choose(lost: dict[Configuration, int], margin: float) -> Choice:
    """By configuration, how many queries of those that the best one answers are lost there."""
    full = np.arange(QUERIES) % 10 < 8
    answered = np.random.default_rng(0).permutation(np.flatnonzero(full))
    values = {}
    for one, count in lost.items():
        hits = full.copy()
        hits[answered[:count]] = False
        values[one] = hits.astype(float)
    return smallest(values, "recall@10", margin, confidence=0.95)


def by_dim(lost: dict[int, int], margin: float) -> Choice:
    return choose({Configuration(dim): count for dim, count in lost.items()}, margin)


def test_the_smallest_dim_that_loses_too_little_to_matter_is_chosen() -> None:
    choice = by_dim({8: 40, 16: 2, 32: 0, 64: 0}, margin=0.02)
    assert (choice.chosen.dim, choice.best.dim) == (16, 32)  # of equal figures the smaller one's is the best
    assert (choice.value, choice.best_value) == pytest.approx((0.8 - 2 / QUERIES, 0.8))
    assert -0.02 < choice.low < choice.value - choice.best_value


def test_a_figure_within_the_margin_is_not_enough_without_the_evidence() -> None:
    # 7 of 400 lost is 0.0175; with other queries it might well have been more than 0.02.
    assert by_dim({8: 7, 16: 0}, margin=0.02).chosen.dim == 16
    assert by_dim({8: 7, 16: 0}, margin=0.03).chosen.dim == 8


def test_the_best_dim_is_chosen_where_all_smaller_ones_lose() -> None:
    choice = by_dim({8: 80, 16: 40, 32: 0}, margin=0.01)
    assert (choice.chosen.dim, choice.low) == (32, 0.0)


def test_bytes_count_and_not_dims() -> None:
    wide, narrow, signs = Configuration(64, "int8"), Configuration(32), Configuration(128, "binary", shortlists=(9,))
    assert choose({narrow: 0, wide: 0, signs: 100}, margin=0.01).chosen == wide  # 64 bytes, 128, 16
    assert choose({narrow: 0, wide: 0, signs: 1}, margin=0.01).chosen == signs


def test_of_equal_sizes_one_search_goes_before_a_funnel_and_floats_before_codes() -> None:
    plain, codes, funnel = Configuration(16), Configuration(64, "int8"), Configuration(16, funnel=(8, 16), shortlists=(9,))
    assert choose({funnel: 0, codes: 0, plain: 0}, margin=0.01).chosen == plain
    assert choose({funnel: 0, codes: 0, plain: 80}, margin=0.01).chosen == codes
    assert choose({funnel: 0, codes: 80, plain: 80}, margin=0.01).chosen == funnel
