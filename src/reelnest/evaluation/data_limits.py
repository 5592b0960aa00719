"""What a metric can show on the test data: the best value that a search could have, and whether models can differ at all."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reelnest.evaluation.evaluation import ALL
from reelnest.evaluation.metrics import METRICS, Hits, Metric, ScoredQueries, query_metrics, summarise
from reelnest.evaluation.relevance import Qrels
from reelnest.evaluation.retrieval_sets import RetrievalSet

if TYPE_CHECKING:
    from reelnest.store.prepared import Prepared

Reasons = dict[str, dict[str, str]]
"""By pair kind and metric, why the metric is no test."""


def best_possible(sets: Sequence[RetrievalSet]) -> dict[str, dict[str, float]]:
    """Returns the metrics of a perfect search, by pair kind, `all` last.

    Recall@1 is below 1 if queries have several relevant items, because only one of them can rank first.
    """
    by_kind = {searched.pair_kind: _perfect(searched) for searched in sets}
    best = {kind: summarise(values) for kind, values in by_kind.items()}
    if sets:
        best[ALL] = summarise({name: np.concatenate([values[name] for values in by_kind.values()]) for name in METRICS})
    return best


def no_test(sets: Sequence[RetrievalSet], prepared: "Prepared") -> Reasons:
    """Returns the metrics in which models cannot differ on this data, with the reason; a pair kind without such metrics is left out.

    Such a metric recommends nothing and decides nothing. It is listed under `all` if it is no test for any pair kind.
    """
    reasons = {searched.pair_kind: _of_set(searched, prepared) for searched in sets}
    everywhere = [name for name in METRICS if sets and all(name in of_kind for of_kind in reasons.values())]
    overall = {name: "; ".join(dict.fromkeys(of_kind[name] for of_kind in reasons.values())) for name in everywhere}
    return {kind: of_kind for kind, of_kind in (reasons | {ALL: overall}).items() if of_kind}


def _perfect(searched: RetrievalSet) -> Mapping[str, np.ndarray]:
    """Returns the metrics of each query if all of its relevant items rank first, best grades first."""
    relevance = Qrels(searched).relevance
    queries = np.repeat(np.arange(len(relevance.counts)), relevance.counts)
    ranks = np.concatenate([np.arange(1, count + 1) for count in relevance.counts])
    grades = np.concatenate([np.sort(of_query)[::-1] for of_query in relevance.grades])
    return query_metrics(ScoredQueries(Hits(queries, ranks, grades), relevance, np.ones(len(relevance.counts))))


def _of_set(searched: RetrievalSet, prepared: "Prepared") -> dict[str, str]:
    queries, candidates = len(searched.queries), _distinct(searched.corpus, prepared)
    if queries == 1:
        return dict.fromkeys(METRICS, "there is only one query")
    if len({frozenset(relevant) for relevant in searched.qrels.values()}) == 1:
        return dict.fromkeys(METRICS, f"all {queries} queries have the same relevant items")
    return {name: _few_candidates(candidates, metric) for name, metric in METRICS.items() if candidates <= metric.cutoff}


def _few_candidates(candidates: int, metric: Metric) -> str:
    if candidates == 1:
        return "all candidates are the same"
    return f"there are only {candidates} different candidates, and every search has all of them in its first {metric.cutoff} results"


def _distinct(corpus: np.ndarray, prepared: "Prepared") -> int:
    """Returns how many items of the corpus differ in what the encoder reads."""
    items = (prepared.item(int(index)) for index in corpus)
    return len({item.key if item.kind == "text" else (_content(item.key, prepared), item.fields) for item in items})


def _content(video: str, prepared: "Prepared") -> str:
    return prepared.store.content(prepared.store.index_of(video))
