"""Exact search by prefix, compared with a plain loop."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from reelnest.errors import ModelError
from reelnest.search import topk
from reelnest.search.storage import SelectedRows, stored
from reelnest.search.topk import corpus_blocks, prefix_topk


def by_loop(queries: Tensor, corpus: Tensor, dim: int, k: int) -> list[list[int]]:
    """Cosines in exact Python numbers, sorted by score and then by row."""
    results = []
    for query in queries[:, :dim].tolist():
        scored = []
        for row, vector in enumerate(corpus[:, :dim].tolist()):
            dot = math.fsum(a * b for a, b in zip(query, vector, strict=True))
            lengths = math.sqrt(math.fsum(a * a for a in query)) * math.sqrt(math.fsum(b * b for b in vector))
            scored.append((-dot / lengths if lengths else 0.0, row))
        results.append([row for _, row in sorted(scored)[:k]])
    return results


@pytest.mark.parametrize("block_scores", [16_000_000, 100, 1])
def test_ranking_equals_a_plain_loop_at_every_prefix(block_scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "BLOCK_SCORES", block_scores)
    generator = torch.Generator().manual_seed(1)
    queries, corpus = torch.randn(17, 24, generator=generator), torch.randn(60, 24, generator=generator)
    rankings = prefix_topk(queries, corpus, [3, 8, 24], k=7)
    assert list(rankings) == [3, 8, 24]
    for dim, ranking in rankings.items():
        assert ranking.indices.tolist() == by_loop(queries, corpus, dim, 7)
        expected = torch.nn.functional.cosine_similarity(queries[:, None, :dim], corpus[None, :, :dim], dim=2)
        torch.testing.assert_close(ranking.scores, expected.gather(1, ranking.indices))
        assert ranking.indices.dtype == torch.int64


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_a_corpus_that_is_read_in_pieces_gives_the_same_ranking(storage: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    queries, corpus = torch.randn(2, 24, generator=generator), stored(torch.randn(500, 24, generator=generator), storage)
    selected = SelectedRows(corpus, torch.arange(0, 500, 3))
    as_floats = corpus[torch.arange(500)].float()
    monkeypatch.setattr(topk, "BLOCK_NUMBERS", 100)
    monkeypatch.setattr(topk, "_workers", lru_cache(topk._workers.__wrapped__))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rankings, of_selected = prefix_topk(queries, corpus, [3, 24], 7), prefix_topk(queries, selected, [3, 24], 7)
    finally:
        torch.set_num_threads(before)
    for dim in (3, 24):
        assert rankings[dim].indices.tolist() == by_loop(queries, as_floats, dim, 7)
        assert of_selected[dim].indices.tolist() == by_loop(queries, as_floats[::3], dim, 7)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_norms_of_an_earlier_search_change_no_bit(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    queries, corpus = torch.randn(3, 24, generator=generator), stored(torch.randn(500, 24, generator=generator), storage)
    monkeypatch.setattr(topk, "BLOCK_NUMBERS", 100)
    monkeypatch.setattr(topk, "BLOCK_SCORES", 700)
    norms: dict[int, Tensor] = {}
    computed, first, second = (prefix_topk(queries, corpus, [3, 24], 7, inverse_norms=given) for given in (None, norms, norms))
    for dim in (3, 24):
        torch.testing.assert_close(norms[dim], 1 / corpus[torch.arange(500)].float()[:, :dim].norm(dim=1))
        for ranking in (first[dim], second[dim]):
            assert torch.equal(computed[dim].indices, ranking.indices)
            assert torch.equal(computed[dim].scores, ranking.scores)
    norms[3].zero_()
    assert prefix_topk(queries, corpus, [3], 7, inverse_norms=norms)[3].scores.unique().tolist() == [0]  # they are used


def test_norms_of_a_search_that_failed_are_not_kept() -> None:
    broken = torch.ones(50, 24)
    broken[30, 2] = torch.nan
    norms: dict[int, Tensor] = {}
    with pytest.raises(ModelError, match="the first is row 30"):
        prefix_topk(torch.ones(1, 24), broken, [3], 7, inverse_norms=norms)
    assert norms == {}


def test_search_threads_use_one_core_each_and_other_threads_as_many_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        workers = topk._workers.__wrapped__()
        assert workers is not None
        with workers, ThreadPoolExecutor(1) as other:
            assert list(workers.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
            assert other.submit(torch.get_num_threads).result() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 9, 20])
def test_equal_scores_are_ordered_by_row_even_across_the_cut(k: int) -> None:
    # Powers of two and unit axes: every cosine is exact, so ties are exact.
    axes = torch.eye(4)
    corpus = torch.stack([axes[1], axes[0] * 4, axes[2], axes[0], axes[1] * 2, axes[0] * 0.5, axes[3], axes[0], axes[1]])
    queries = torch.stack([axes[0], axes[1] * 8, axes[3]])
    ranking = prefix_topk(queries, corpus, [4], k)[4]
    assert ranking.indices.tolist() == by_loop(queries, corpus, 4, k)


def test_a_repeated_search_gives_the_same_results_with_many_duplicates() -> None:
    generator = torch.Generator().manual_seed(2)
    corpus = torch.randint(-1, 2, (400, 4), generator=generator).float()
    queries = torch.randint(-1, 2, (50, 4), generator=generator).float()
    for k in (1, 10, 399):
        first, second = (prefix_topk(queries, corpus, [2, 4], k) for _ in range(2))
        for dim in (2, 4):
            assert torch.equal(first[dim].indices, second[dim].indices)
            scores, rows = first[dim].scores, first[dim].indices
            tied = scores[:, :-1] == scores[:, 1:]
            assert (scores[:, :-1] >= scores[:, 1:]).all()
            assert (rows[:, :-1] < rows[:, 1:])[tied].all()


def test_k_above_the_corpus_gives_all_of_it() -> None:
    ranking = prefix_topk(torch.ones(2, 4), torch.ones(1, 4), [4], k=10)[4]
    assert ranking.indices.tolist() == [[0], [0]]
    torch.testing.assert_close(ranking.scores, torch.ones(2, 1))


@pytest.mark.parametrize(("queries", "corpus"), [(0, 3), (3, 0), (0, 0)])
def test_empty_sides_give_empty_rankings(queries: int, corpus: int) -> None:
    ranking = prefix_topk(torch.ones(queries, 4), torch.ones(corpus, 4), [2, 4], k=5)[4]
    assert tuple(ranking.indices.shape) == (queries, corpus)


def test_a_zero_vector_scores_zero_and_not_nan() -> None:
    ranking = prefix_topk(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]]), [2], k=2)[2]
    assert ranking.indices.tolist() == [[1, 0]]
    assert ranking.scores.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["query", "corpus"])
@pytest.mark.parametrize("number_type", [torch.float32, torch.float16])
def test_vectors_with_nan_are_refused_with_their_row(value: float, side: str, number_type: torch.dtype) -> None:
    vectors = {"query": torch.ones(4, 3), "corpus": torch.ones(5, 3, dtype=number_type)}
    vectors[side][2, 1] = value
    with pytest.raises(ModelError, match=rf"1 of . {side} vectors contain NaN or infinity; the first is row 2"):
        prefix_topk(vectors["query"], vectors["corpus"], [3], k=2)


@pytest.mark.parametrize(("dims", "k"), [([0], 1), ([5], 1), ([4], 0)])
def test_invalid_dims_and_k_are_refused(dims: list[int], k: int) -> None:
    with pytest.raises(ValueError, match=r"must be at least 1|is outside 1 to 4"):
        prefix_topk(torch.ones(2, 4), torch.ones(3, 4), dims, k)


def test_finite_vectors_whose_sum_overflows_are_searched() -> None:
    ranking = prefix_topk(torch.full((1, 4), 3e38), torch.tensor([[-1.0, 0, 0, 0], [1.0, 0, 0, 0]]), [1], k=1)[1]
    assert ranking.indices.tolist() == [[1]]


def test_blocks_are_larger_on_a_gpu_and_cover_the_corpus() -> None:
    on_cpu, on_gpu = (corpus_blocks(1000, 1_000_000, torch.device(name)) for name in ("cpu", "cuda"))
    assert len(on_gpu) == 16 < len(on_cpu)
    for blocks in (on_cpu, on_gpu):
        assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
        assert blocks[-1].stop == 1_000_000
