"""Funnel search, compared with exact search."""

import math

import numpy as np
import pytest
import torch

from reelnest.errors import ModelError
from reelnest.search.funnel import funnel_topk
from reelnest.search.storage import Int8Vectors
from reelnest.search.topk import prefix_topk

DIMS = [4, 8, 16]


def some(rows: int, seed: int, width: int = 16) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def test_a_shortlist_of_everything_gives_the_exact_search() -> None:
    queries, corpus = some(9, 0), some(50, 1)
    ranking, exact = funnel_topk(queries, corpus, DIMS, [50, 50], k=10), prefix_topk(queries, corpus, [16], 10)[16]
    assert torch.equal(ranking.indices, exact.indices)
    torch.testing.assert_close(ranking.scores, exact.scores)


def test_each_step_keeps_the_best_of_the_one_before() -> None:
    queries, corpus = some(6, 2), some(60, 3)
    ranking = funnel_topk(queries, corpus, DIMS, [20, 7], k=5)
    for query, rows in zip(queries, ranking.indices, strict=True):
        expected = torch.arange(60)
        for dim, count in zip(DIMS, (20, 7, 5), strict=True):
            cosines = torch.nn.functional.cosine_similarity(query[None, :dim], corpus[expected, :dim])
            expected = expected[cosines.argsort(descending=True)[:count]]
        assert rows.tolist() == expected.tolist()


def test_equal_scores_are_ordered_by_row_at_every_step() -> None:
    axes = torch.eye(4)
    corpus = torch.stack([axes[1], axes[0] * 2, axes[0], axes[0] * 4, axes[1], axes[0]])
    assert funnel_topk(axes[:1], corpus, [2, 4], [3], k=2).indices.tolist() == [[1, 2]]
    assert funnel_topk(axes[:1], corpus, [2, 4], [5], k=5).indices.tolist() == [[1, 2, 3, 5, 0]]


def test_numpy_arrays_and_codes_are_searched_too() -> None:
    queries, corpus = some(5, 4), some(40, 5)
    expected = funnel_topk(queries, corpus, [8, 16], [20], k=5)
    from_numpy = funnel_topk(queries.numpy(), corpus.numpy(), [8, 16], [20], k=5)
    assert torch.equal(from_numpy.indices, expected.indices)
    codes = Int8Vectors.calibrated(corpus)
    decoded = funnel_topk(queries, codes[torch.arange(40)], [8, 16], [20], k=5)
    assert torch.equal(funnel_topk(queries, codes, [8, 16], [20], k=5).indices, decoded.indices)


def test_a_shortlist_shorter_than_k_gives_fewer_results_and_a_short_corpus_all_of_it() -> None:
    assert funnel_topk(some(2, 6), some(30, 7), [8, 16], [3], k=5).indices.shape == (2, 3)
    assert funnel_topk(some(2, 6), some(1, 7), [8, 16], [3], k=5).indices.tolist() == [[0], [0]]
    assert funnel_topk(some(0, 6), some(4, 7), [8, 16], [3], k=5).indices.shape == (0, 3)
    assert funnel_topk(some(2, 6), some(0, 7), [8, 16], [3], k=5).indices.shape == (2, 0)


@pytest.mark.parametrize(
    ("dims", "shortlists", "expected"),
    [
        ([], [], "must increase"),
        ([16, 8], [5], "must increase"),
        ([8, 8], [5], "must increase"),
        ([8, 16], [], "expected 1 shortlists, one for each dim"),
        ([4, 8, 16], [5, 9], "must not increase"),
        ([8, 16], [0], "at least 1"),
        ([8, 32], [5], "dim 32 is outside 1 to 16"),
    ],
)
def test_invalid_schedules_are_refused(dims: list[int], shortlists: list[int], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        funnel_topk(some(2, 8), some(9, 9), dims, shortlists, k=2)


def test_nan_is_refused_also_where_only_the_last_step_reads_it() -> None:
    corpus = some(9, 9)
    corpus[4, 15] = math.nan
    with pytest.raises(ModelError, match="corpus row 4"):
        funnel_topk(some(2, 8), corpus, [8, 16], [9], k=2)
    with pytest.raises(ModelError, match="query"):
        funnel_topk(np.full((1, 16), np.nan, dtype=np.float32), some(9, 9), [8, 16], [3], k=2)
