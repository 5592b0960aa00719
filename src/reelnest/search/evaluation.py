"""Retrieval quality of nested vectors: every metric, for every pair kind, at every dim."""

import time
from collections.abc import Mapping, Sequence
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
    queries_per_second: float | None
    """Of the search at this dim alone, up to TIMED_QUERIES at once, on this machine, without encoding. None where it was not timed."""


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
    *,
    timed: bool = False,
) -> Evaluation:
    """Searches each set's corpus with each of its queries, at all dims in one pass.

    `depth` answers are kept for each query: MAP and MRR count a right answer below it as not found, as TREC does. The median rank is exact
    at any depth: it is the median over queries of the rank of the best right answer, where of equal scores the lower item stands first.
    With `confidence`, such as 0.95, each figure has its interval over queries; with `timed`, each dim is searched once more for its speed.

    Raises ModelError for vectors that hold NaN or infinity.
    """
    dims = tuple(sorted(dims))
    by_query: list[QueryMetrics] = []
    seconds: dict[tuple[str, int], float] = {}
    outranked, answers = [], []
    for searched in sets:
        query_vectors, corpus_vectors = queries.of(searched.queries), targets.of(searched.corpus)
        spare = max((len(items) for items in searched.ignored.values()), default=0)
        rankings = prefix_topk(query_vectors, corpus_vectors, dims, depth + spare)
        for dim in dims:
            found = _counted(searched, rankings[dim], depth)
            metrics = _metrics(found, query_vectors, corpus_vectors, dim)
            by_query.append(QueryMetrics(searched, dim, metrics))
            if timed:
                seconds[searched.pair_kind, dim] = _search_seconds(query_vectors, corpus_vectors, dim, depth + spare)
            if searched.negatives:
                share = _share_outranked(searched, query_vectors, corpus_vectors, dim)
                outranked.append(Outranked(searched.pair_kind, dim, share, len(searched.negatives)))
            if dim == dims[-1]:
                answers.append(Answers(searched, tuple(searched.corpus[row] for row in found.rows), tuple(found.scores)))
    results = [result for searched in sets for result in _results(searched.pair_kind, [searched], by_query, seconds, confidence)]
    if sets:
        results += _results(ALL, sets, by_query, seconds, confidence)
    return Evaluation(dims, tuple(results), tuple(by_query), tuple(outranked), tuple(answers))


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


def _results(
    pair_kind: str,
    sets: Sequence[RetrievalSet],
    by_query: Sequence[QueryMetrics],
    seconds: Mapping[tuple[str, int], float],
    confidence: float | None,
) -> list[Result]:
    """Over the queries of all `sets`, at each dim."""
    kinds = [searched.pair_kind for searched in sets]
    dims = sorted({found.dim for found in by_query})
    values = {
        (dim, name): np.concatenate([found.values[name] for found in by_query if found.dim == dim and found.searched.pair_kind in kinds])
        for dim in dims
        for name in METRICS
    }
    medians = [(dim, "median_rank") for dim in dims]
    intervals = {} if confidence is None else bootstrap_intervals(values, confidence, medians=medians)
    queries = sum(len(searched.queries) for searched in sets)
    corpus = len(np.unique(np.concatenate([searched.corpus for searched in sets])))
    results = []
    for dim in dims:
        spent = sum(seconds[kind, dim] for kind in kinds) if seconds else None
        ends = {name: intervals[dim, name] for name in METRICS} if intervals else {}
        metrics = summarise({name: values[dim, name] for name in METRICS})
        results.append(Result(pair_kind, dim, queries, corpus, metrics, ends, None if spent is None else queries / max(spent, 1e-9)))
    return results
