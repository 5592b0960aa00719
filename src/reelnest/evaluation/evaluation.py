"""Retrieval quality of nested vectors: every metric, for every pair kind, at every dim."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from reelnest.evaluation.metrics import METRICS, ScoredQueries, query_metrics, summarise
from reelnest.evaluation.relevance import LabelledResults, Qrels
from reelnest.evaluation.retrieval_sets import RetrievalSet
from reelnest.evaluation.significance import bootstrap_intervals
from reelnest.search.sharded import sharded_topk
from reelnest.search.topk import SMALLEST_NORM, prefix_scores, query_blocks

Key = TypeVar("Key", bound=Hashable)

ALL = "all"
"""The pair kind of metrics over the queries of all kinds."""


@dataclass(frozen=True)
class Vectors:
    """Vectors of some items in one role."""

    items: np.ndarray  # (items,) int64, rising
    vectors: Tensor  # (items, width) float32, any length

    def of(self, items: np.ndarray) -> Tensor:
        """Returns the vectors of `items`, (len(items), width). Raises KeyError for an item that was not encoded."""
        rows = np.searchsorted(self.items, items)
        if len(items) and (len(self.items) == 0 or (self.items[np.minimum(rows, len(self.items) - 1)] != items).any()):
            raise KeyError("some of the items have no vector")
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
    """By metric, the lower and upper end (see `significance`); empty if no confidence was given."""


@dataclass(frozen=True)
class Outranked:
    """Share of queries whose best relevant item scores above all of their listed negatives."""

    pair_kind: str
    dim: int
    value: float
    queries: int


@dataclass(frozen=True)
class Retrieved:
    """The results of each query at the full width: item indices and cosines, best first, without ignored items."""

    searched: RetrievalSet
    items: tuple[np.ndarray, ...]
    scores: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class QueryMetrics:
    """The metrics of each query of a set at one dim."""

    searched: RetrievalSet
    dim: int
    values: dict[str, np.ndarray]
    """By metric, (queries,)."""
    best_ranks: np.ndarray | None = None  # (queries,), of the first relevant item; None if unknown below the depth
    above_negatives: int = 0
    """How many queries have a relevant item above all of their listed negatives."""


@dataclass(frozen=True)
class Evaluation:
    """All results, by pair kind and then by rising dim, `all` last."""

    dims: tuple[int, ...]
    results: tuple[Result, ...]
    by_query: tuple[QueryMetrics, ...]
    outranked: tuple[Outranked, ...]
    retrieved: tuple[Retrieved, ...]

    def value(self, metric: str, pair_kind: str = ALL, dim: int | None = None) -> float | None:
        """Returns one metric, at the full width unless `dim` is set; None if the split has no queries of that kind."""
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

    Each query gets `depth` results: MAP and MRR count a relevant item below that as not retrieved, as TREC does. The best ranks are exact
    at any depth; of equal scores the lower item comes first. With `confidence`, such as 0.95, each metric has an interval over queries.
    The processes of a distributed run share the search; each must call this with equal arguments, and each gets all results.

    Raises ModelError for vectors that hold NaN or infinity, DataError for a query without a relevant item.
    """
    dims = tuple(sorted(dims))
    by_query: list[QueryMetrics] = []
    outranked, retrieved = [], []
    for searched in sets:
        qrels = Qrels(searched)
        query_vectors, corpus_vectors = queries.of(searched.queries), targets.of(searched.corpus)
        rankings = sharded_topk(query_vectors, corpus_vectors, dims, depth + qrels.most_ignored)
        for dim in dims:
            results_of_dim = qrels.label(rankings[dim], depth)
            best_ranks = _best_ranks(searched, results_of_dim, query_vectors, corpus_vectors, dim)
            values = query_metrics(ScoredQueries(results_of_dim.hits, qrels.relevance, best_ranks))
            above = _above_negatives(searched, query_vectors, corpus_vectors, dim)
            by_query.append(QueryMetrics(searched, dim, values, best_ranks, above))
            if searched.negatives:
                outranked.append(Outranked(searched.pair_kind, dim, above / len(searched.negatives), len(searched.negatives)))
            if dim == dims[-1]:
                retrieved.append(_retrieved(searched, results_of_dim))
    results = [result for searched in sets for result in _results(searched.pair_kind, [searched], by_query, confidence)]
    if sets:
        results += _results(ALL, sets, by_query, confidence)
    return Evaluation(dims, tuple(results), tuple(by_query), tuple(outranked), tuple(retrieved))


def _retrieved(searched: RetrievalSet, labelled: LabelledResults) -> Retrieved:
    items, lengths = searched.corpus[labelled.rows], labelled.lengths.tolist()
    return Retrieved(
        searched,
        tuple(row[:length] for row, length in zip(items, lengths, strict=True)),
        tuple(row[:length] for row, length in zip(labelled.scores, lengths, strict=True)),
    )


def _best_ranks(searched: RetrievalSet, labelled: LabelledResults, queries: Tensor, corpus: Tensor, dim: int) -> np.ndarray:
    """Returns the rank of each query's best relevant item, (queries,), including ranks below the depth."""
    ranks = np.zeros(len(searched.queries))
    first = np.unique(labelled.hits.query, return_index=True)[1]
    ranks[labelled.hits.query[first]] = labelled.hits.rank[first]
    missed = np.flatnonzero(ranks == 0)
    if len(missed):
        ranks[missed] = np.maximum(_ranks_below(searched, missed.tolist(), queries, corpus, dim), labelled.lengths[missed] + 1)
    return ranks


def _ranks_below(searched: RetrievalSet, positions: list[int], queries: Tensor, corpus: Tensor, dim: int) -> list[int]:
    """Returns the rank of the best relevant item of queries without one within the depth: 1 + the number of items that score above it."""
    ranks = []
    for block in query_blocks(len(positions), len(corpus)):
        scores = prefix_scores(queries[positions[block]], corpus, dim).cpu().numpy()
        for index, row in zip(positions[block], scores, strict=True):
            query = int(searched.queries[index])
            relevant = np.sort(np.searchsorted(searched.corpus, np.fromiter(searched.qrels[query], dtype=np.int64)))
            best = relevant[np.argmax(row[relevant])]
            above = row > row[best]
            above[:best] |= row[:best] == row[best]
            above[np.searchsorted(searched.corpus, searched.ignored.get(query, searched.corpus[:0]))] = False
            ranks.append(int(above.sum()) + 1)
    return ranks


def _above_negatives(searched: RetrievalSet, queries: Tensor, corpus: Tensor, dim: int) -> int:
    above = 0
    for query, negatives in searched.negatives.items():
        relevant = np.fromiter(searched.qrels[query], dtype=np.int64)
        rows = torch.from_numpy(np.searchsorted(searched.corpus, np.concatenate([relevant, negatives])))
        items = corpus[rows, :dim].double()
        items /= items.norm(dim=1, keepdim=True).clamp_min(SMALLEST_NORM)
        scores = items @ queries[int(np.searchsorted(searched.queries, query)), :dim].double()
        above += bool(scores[: len(relevant)].max() > scores[len(relevant) :].max())
    return above


def summaries(
    measured: Mapping[Key, Sequence[QueryMetrics]], confidence: float | None
) -> dict[Key, tuple[dict[str, float], dict[str, tuple[float, float]]]]:
    """Returns the metrics of each key and their intervals. All keys must have the same queries in the same order."""
    values = {
        (key, name): np.concatenate([of_set.values[name] for of_set in of_key])
        for key, of_key in measured.items()
        for name in of_key[0].values
    }
    medians = [column for column in values if METRICS[column[1]].reduce == "median"]
    intervals = {} if confidence is None else bootstrap_intervals(values, confidence, medians=medians)
    figures = {}
    for key, of_key in measured.items():
        names = list(of_key[0].values)
        ends = {name: intervals[key, name] for name in names} if intervals else {}
        figures[key] = summarise({name: values[key, name] for name in names}), ends
    return figures


def _results(
    pair_kind: str,
    sets: Sequence[RetrievalSet],
    by_query: Sequence[QueryMetrics],
    confidence: float | None,
) -> list[Result]:
    """Returns the metrics over the queries of all `sets`, at each dim."""
    kinds = {searched.pair_kind: len(searched.queries) for searched in sets}
    dims = sorted({entry.dim for entry in by_query})
    summarised = summaries(
        {dim: [entry for entry in by_query if entry.dim == dim and entry.searched.pair_kind in kinds] for dim in dims}, confidence
    )
    queries = sum(kinds.values())
    corpus = len(np.unique(np.concatenate([searched.corpus for searched in sets])))
    results = []
    for dim, (metrics, intervals) in summarised.items():
        results.append(Result(pair_kind, dim, queries, corpus, metrics, intervals))
    return results
