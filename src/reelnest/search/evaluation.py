"""Retrieval quality of nested vectors: every metric, for every pair kind, at every dim."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reelnest.search.metrics import METRICS, query_metrics, summarise
from reelnest.search.retrieval_sets import RetrievalSet
from reelnest.search.significance import bootstrap_intervals
from reelnest.search.topk import SMALLEST_NORM, Ranking, prefix_scores, prefix_topk, query_blocks

TIMED_QUERIES = 256
"""At most so many queries are searched once more, at each dim by itself, for the speed."""
ALL = "all"
"""The pair kind that stands for the mean (for the median rank: the median) over the queries of all kinds."""


@dataclass(frozen=True)
class Vectors:
    """Vectors of some items in one role."""

    items: np.ndarray  # (items,) int64, rising
    vectors: Tensor  # (items, width) float32, any length

    def of(self, items: np.ndarray) -> Tensor:
        """(len(items), width). Raises KeyError for an item that was not encoded."""
        rows = np.searchsorted(self.items, items)
        if len(items) and (len(self.items) == 0 or (self.items[np.minimum(rows, len(self.items) - 1)] != items).any()):
            raise KeyError("items without a vector were asked for")
        return self.vectors[torch.from_numpy(rows)]


@dataclass(frozen=True)
class Result:
    """The metrics of one pair kind at one dim."""

    pair_kind: str
    dim: int
    queries: int
    corpus: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """By metric, the lower and upper end (see `significance`); empty where no confidence was asked for."""
    queries_per_second: float
    """Of the search at this dim alone, up to TIMED_QUERIES at once, on this machine; encoding is not counted."""


@dataclass(frozen=True)
class Outranked:
    """How often a query's best right answer scores above every answer that the data names as wrong for it."""

    pair_kind: str
    dim: int
    value: float
    queries: int


@dataclass(frozen=True)
class Answers:
    """What each query of a set found at the full width: item indices and cosines, best first, without what is ignored for it."""

    searched: RetrievalSet
    items: tuple[np.ndarray, ...]
    scores: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class QueryMetrics:
    """What each query of a set contributes to the figures of one dim."""

    searched: RetrievalSet
    dim: int
    values: dict[str, np.ndarray]
    """By metric, (queries,)."""


@dataclass(frozen=True)
class Evaluation:
    """All results, by pair kind and then by rising dim, `all` last."""

    dims: tuple[int, ...]
    results: tuple[Result, ...]
    by_query: tuple[QueryMetrics, ...]
    outranked: tuple[Outranked, ...]
    answers: tuple[Answers, ...]

    def value(self, metric: str, pair_kind: str = ALL, dim: int | None = None) -> float | None:
        """One figure, at the full width unless a dim is given; None where the split has no such queries."""
        dim = self.dims[-1] if dim is None else dim
        for result in self.results:
            if result.pair_kind == pair_kind and result.dim == dim:
                return result.metrics[metric]
        return None


def evaluate_vectors(
    sets: Sequence[RetrievalSet],
    queries: Vectors,
    targets: Vectors,
    dims: Sequence[int],
    depth: int,
    confidence: float | None = None,
) -> Evaluation:
    """Searches each set's corpus with each of its queries, at all dims in one pass.

    `depth` answers are kept for each query: MAP and MRR count a right answer below it as not found, as TREC does. The median rank is exact
    at any depth: it is the median over queries of the rank of the best right answer, where of equal scores the lower item stands first.
    With `confidence`, such as 0.95, each figure has its interval over queries.

    Raises ModelError for vectors that hold NaN or infinity.
    """
    dims = tuple(sorted(dims))
    results: dict[tuple[str, int], Result] = {}
    by_query: list[QueryMetrics] = []
    seconds = dict.fromkeys(dims, 0.0)
    outranked, answers = [], []
    for searched in sets:
        query_vectors, corpus_vectors = queries.of(searched.queries), targets.of(searched.corpus)
        spare = max((len(items) for items in searched.ignored.values()), default=0)
        rankings = prefix_topk(query_vectors, corpus_vectors, dims, depth + spare)
        for dim in dims:
            found = _counted(searched, rankings[dim], depth)
            metrics = _metrics(found, query_vectors, corpus_vectors, dim)
            by_query.append(QueryMetrics(searched, dim, metrics))
            spent = _search_seconds(query_vectors, corpus_vectors, dim, depth + spare)
            seconds[dim] += spent
            results[searched.pair_kind, dim] = _result(searched.pair_kind, dim, len(searched.corpus), [metrics], spent, confidence)
            if searched.negatives:
                share = _share_outranked(searched, query_vectors, corpus_vectors, dim)
                outranked.append(Outranked(searched.pair_kind, dim, share, len(searched.negatives)))
            if dim == dims[-1]:
                answers.append(Answers(searched, tuple(searched.corpus[row] for row in found.rows), tuple(found.scores)))
    if sets:
        corpus = len(np.unique(np.concatenate([searched.corpus for searched in sets])))
        for dim in dims:
            values = [found.values for found in by_query if found.dim == dim]
            results[ALL, dim] = _result(ALL, dim, corpus, values, seconds[dim], confidence)
    return Evaluation(dims, tuple(results.values()), tuple(by_query), tuple(outranked), tuple(answers))


@dataclass(frozen=True)
class _Found:
    searched: RetrievalSet
    rows: list[np.ndarray]  # rows of the corpus for each query, best first
    scores: list[np.ndarray]


def _counted(searched: RetrievalSet, ranking: Ranking, depth: int) -> _Found:
    """The first `depth` answers of each query that count for it."""
    ignored = {query: np.searchsorted(searched.corpus, items) for query, items in searched.ignored.items()}
    rows, scores = [], []
    for query, row, score in zip(searched.queries.tolist(), ranking.indices.cpu().numpy(), ranking.scores.cpu().numpy(), strict=True):
        if query in ignored:
            counted = ~np.isin(row, ignored[query])
            row, score = row[counted], score[counted]
        rows.append(row[:depth])
        scores.append(score[:depth])
    return _Found(searched, rows, scores)


def _search_seconds(queries: Tensor, corpus: Tensor, dim: int, k: int) -> float:
    """Of searching with all queries at one dim, by what the first TIMED_QUERIES take."""
    timed = queries[:TIMED_QUERIES]
    start = time.perf_counter()
    prefix_topk(timed, corpus, [dim], k)
    return (time.perf_counter() - start) * len(queries) / max(len(timed), 1)


def _metrics(found: _Found, queries: Tensor, corpus: Tensor, dim: int) -> dict[str, np.ndarray]:
    searched = found.searched
    values = {name: np.zeros(len(searched.queries)) for name in METRICS}
    missed = []
    for position, query in enumerate(searched.queries.tolist()):
        right = np.fromiter(searched.qrels[query], dtype=np.int64)
        grades = np.fromiter(searched.qrels[query].values(), dtype=np.float64)
        row = found.rows[position]
        ranks = np.flatnonzero(np.isin(row, np.searchsorted(searched.corpus, right)))
        hits = [(int(rank) + 1, searched.qrels[query][int(searched.corpus[row[rank]])]) for rank in ranks]
        for name, value in query_metrics(hits, grades.tolist()).items():
            values[name][position] = value
        if hits:
            values["median_rank"][position] = hits[0][0]
        else:
            missed.append(position)
    for position, rank in zip(missed, _ranks_below(searched, missed, queries, corpus, dim), strict=True):
        values["median_rank"][position] = max(rank, len(found.rows[position]) + 1)
    return values


def _ranks_below(searched: RetrievalSet, positions: list[int], queries: Tensor, corpus: Tensor, dim: int) -> list[int]:
    """Rank of the best right answer of queries that did not find any within the depth, by counting what scores above it."""
    ranks = []
    for block in query_blocks(len(positions), len(corpus)):
        scores = prefix_scores(queries[positions[block]], corpus, dim).cpu().numpy()
        for position, row in zip(positions[block], scores, strict=True):
            query = int(searched.queries[position])
            right = np.sort(np.searchsorted(searched.corpus, np.fromiter(searched.qrels[query], dtype=np.int64)))
            best = right[np.argmax(row[right])]
            above = row > row[best]
            above[:best] |= row[:best] == row[best]
            above[np.searchsorted(searched.corpus, searched.ignored.get(query, searched.corpus[:0]))] = False
            ranks.append(int(above.sum()) + 1)
    return ranks


def _share_outranked(searched: RetrievalSet, queries: Tensor, corpus: Tensor, dim: int) -> float:
    above = 0
    for query, wrong in searched.negatives.items():
        right = np.fromiter(searched.qrels[query], dtype=np.int64)
        rows = torch.from_numpy(np.searchsorted(searched.corpus, np.concatenate([right, wrong])))
        answers = corpus[rows, :dim].double()
        answers /= answers.norm(dim=1, keepdim=True).clamp_min(SMALLEST_NORM)
        scores = answers @ queries[int(np.searchsorted(searched.queries, query)), :dim].double()
        above += bool(scores[: len(right)].max() > scores[len(right) :].max())
    return above / len(searched.negatives)


def _result(pair_kind: str, dim: int, corpus: int, values: list[dict[str, np.ndarray]], seconds: float, confidence: float | None) -> Result:
    joined = {name: np.concatenate([part[name] for part in values]) for name in METRICS}
    queries = len(joined[METRICS[0]])
    intervals = {} if confidence is None else bootstrap_intervals(joined, confidence)
    return Result(pair_kind, dim, queries, corpus, summarise(joined), intervals, queries / max(seconds, 1e-9))
