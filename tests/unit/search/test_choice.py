"""Which dim is enough: planted figures of 400 queries."""

import numpy as np
import pytest

from reelnest.search.choice import smallest_dim
from reelnest.search.evaluation import QueryMetrics
from reelnest.search.retrieval_sets import RetrievalSet

QUERIES = 400


def found(dim: int, hits: np.ndarray) -> list[QueryMetrics]:
    """In two pair kinds of 200 queries each."""
    nothing = np.empty(0, dtype=np.int64)
    sets = [RetrievalSet(kind, nothing, nothing, {}, {}, {}) for kind in ("text_to_video", "video_to_text")]
    return [QueryMetrics(one, dim, {"recall@10": part}) for one, part in zip(sets, np.split(hits.astype(float), 2), strict=True)]


def planted(lost: dict[int, int]) -> list[QueryMetrics]:
    """By dim, how many queries of those that the full width answers are lost there."""
    full = np.arange(QUERIES) % 10 < 8
    answered = np.random.default_rng(0).permutation(np.flatnonzero(full))
    by_query = []
    for dim, count in lost.items():
        hits = full.copy()
        hits[answered[:count]] = False
        by_query += found(dim, hits)
    return by_query


def test_the_smallest_dim_that_loses_too_little_to_matter_is_chosen() -> None:
    choice = smallest_dim(planted({8: 40, 16: 2, 32: 0, 64: 0}), "recall@10", margin=0.02, confidence=0.95)
    assert (choice.dim, choice.best_dim) == (16, 32)  # of equal figures the smaller dim's is the best
    assert (choice.value, choice.best_value) == pytest.approx((0.8 - 2 / QUERIES, 0.8))
    assert -0.02 < choice.low < choice.value - choice.best_value


def test_a_figure_within_the_margin_is_not_enough_without_the_evidence() -> None:
    # 7 of 400 lost is 0.0175; with other queries it might well have been more than 0.02.
    assert smallest_dim(planted({8: 7, 16: 0}), "recall@10", margin=0.02, confidence=0.95).dim == 16
    assert smallest_dim(planted({8: 7, 16: 0}), "recall@10", margin=0.03, confidence=0.95).dim == 8


def test_the_best_dim_is_chosen_where_all_smaller_ones_lose() -> None:
    choice = smallest_dim(planted({8: 80, 16: 40, 32: 0}), "recall@10", margin=0.01, confidence=0.95)
    assert (choice.dim, choice.low) == (32, 0.0)
