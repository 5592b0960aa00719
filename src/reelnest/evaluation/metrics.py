"""The table of retrieval metrics. To add a metric, add a row: settings, reports, pages, plots, the gate and MLflow read this table.

A metric gives a number for each query. pytrec_eval does not compute them because trec_eval accepts only integer grades, breaks ties by its
own rule, and needs every result as a dictionary entry, whereas only the ranks of the relevant items matter. The tests compare each metric
with pytrec_eval.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
NAME = re.compile(r"[a-z0-9_]+(@[0-9]+)?")
REDUCE: Mapping[str, Callable[[Floats], np.float64]] = {"mean": np.mean, "median": np.median}


@dataclass(frozen=True)
class Hits:
    """The relevant items among the first `depth` results, sorted by query and then by rank."""

    query: NDArray[np.int64]  # (hits,), index of the query, rising
    rank: NDArray[np.int64]  # (hits,), from 1
    grade: Floats  # (hits,), above 0

    @cached_property
    def number(self) -> NDArray[np.int64]:
        """The number of each hit among those of its query, from 1: (hits,)."""
        first = np.searchsorted(self.query, self.query)  # index of the query's first hit
        return np.arange(len(self.query)) - first + 1


@dataclass(frozen=True)
class Relevance:
    """How many items are relevant to each query, and their grades."""

    counts: NDArray[np.int64]  # (queries,), number of relevant items, at least 1
    grades: Sequence[Sequence[float]]
    """Grades of each query's relevant items, in any order."""
    _ideal: dict[int, Floats] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, grades: Sequence[Sequence[float]]) -> Self:
        """Makes a Relevance of the grades of all relevant items of each query, in any order."""
        return cls(np.array([len(of_query) for of_query in grades], dtype=np.int64), grades)

    def ideal_dcg(self, k: int) -> Floats:
        """Returns the discounted gain of the best possible first k, (queries,)."""
        if k not in self._ideal:
            best = (np.sort(np.asarray(of_query))[::-1][:k] for of_query in self.grades)
            self._ideal[k] = np.array([float(np.sum(grades / np.log2(np.arange(2, len(grades) + 2)))) for grades in best])
        return self._ideal[k]


@dataclass(frozen=True)
class ScoredQueries:
    """The hits of some queries, and their relevant items: the input of every metric."""

    hits: Hits
    relevance: Relevance
    best_ranks: Floats | None = None
    """The rank of each query's first relevant item, including ranks below the depth: (queries,). None if the search did not compute it."""

    def total(self, values: NDArray[np.number]) -> Floats:
        """Sums `values`, (hits,), over the hits of each query: (queries,)."""
        return np.bincount(self.hits.query, values, minlength=len(self.relevance.counts)).astype(np.float64)


@dataclass(frozen=True)
class Metric:
    """A row of the table."""

    name: str
    """The name in params.yaml and the reports: lower-case letters, digits and _, with @ and a number for a cut-off."""
    title: str
    """The name on pages, as papers write it."""
    per_query: Callable[[ScoredQueries], Floats]
    """Returns a number for each query, (queries,)."""
    reduce: Literal["mean", "median"] = "mean"
    """How the numbers of all queries become one."""
    lower_is_better: bool = False
    display: Literal["headline", "chart", "table"] = "table"
    """table: only in tables of all metrics; chart: also in charts, slices and a run's summary; headline: also in `metrics.json`, the model
    card and other short tables."""
    needs_best_ranks: bool = False
    """Whether it reads `best_ranks`, which only exact float32 search computes."""
    only_if_capped: str | None = None
    """Another metric's name: pages show this one only where that one cannot reach 1, because queries have several relevant items."""
    cutoff: int = 1
    """The first `cutoff` ranks count alike. With no more candidates than that, every search has the same value."""

    def __post_init__(self) -> None:
        """Raises ValueError for a name that a CSV file or a tracker would not accept."""
        if not NAME.fullmatch(self.name):
            raise ValueError(f"metric '{self.name}': expected a name such as recall@10 or median_rank")

    @property
    def is_comparable(self) -> bool:
        """Whether models and configurations can be compared by it: a mean, higher is better, available for every configuration."""
        return self.reduce == "mean" and not self.lower_is_better and not self.needs_best_ranks


METRICS: dict[str, Metric] = {}
"""By name, in display order."""


def register(metric: Metric) -> Metric:
    """Adds a row to the table. Raises ValueError if a metric of that name exists."""
    if metric.name in METRICS:
        raise ValueError(f"metric '{metric.name}': a metric of that name is already registered")
    METRICS[metric.name] = metric
    return metric


def recall_at(k: int) -> Callable[[ScoredQueries], Floats]:
    """Returns the share of all relevant items that are in the first k: trec_eval's recall_k."""
    return lambda scored: scored.total((scored.hits.rank <= k) * 1.0) / scored.relevance.counts


def hit_at(k: int) -> Callable[[ScoredQueries], Floats]:
    """Returns 1 if a relevant item is in the first k, else 0: trec_eval's success_k.

    Unlike recall, it can reach 1 if many items are relevant.
    """
    return lambda scored: scored.total((scored.hits.number == 1) & (scored.hits.rank <= k))


def reciprocal_rank(scored: ScoredQueries) -> Floats:
    """Returns 1 / rank of the first relevant item."""
    return scored.total((scored.hits.number == 1) / scored.hits.rank.astype(np.float64))


def ndcg_at(k: int) -> Callable[[ScoredQueries], Floats]:
    """Returns the grades of the first k, discounted by log2(rank + 1), over those of the best possible order.

    Järvelin and Kekäläinen 2002, https://doi.org/10.1145/582415.582418.
    """

    def ndcg(scored: ScoredQueries) -> Floats:
        gains = scored.hits.grade * (scored.hits.rank <= k) / np.log2(scored.hits.rank + 1.0)
        return scored.total(gains) / scored.relevance.ideal_dcg(k)

    return ndcg


def average_precision(scored: ScoredQueries) -> Floats:
    """Returns the mean precision at each relevant item, 0 for those not retrieved."""
    return scored.total(scored.hits.number / scored.hits.rank) / scored.relevance.counts


def best_rank(scored: ScoredQueries) -> Floats:
    """Returns the rank of the first relevant item. Raises ValueError if the search did not compute it."""
    if scored.best_ranks is None:
        raise ValueError("this metric needs the ranks below the depth, which were not computed")
    return scored.best_ranks


register(Metric("recall@1", "Recall@1", recall_at(1), display="headline"))
register(Metric("hit@1", "Hit@1", hit_at(1), display="headline", only_if_capped="recall@1"))
register(Metric("recall@5", "Recall@5", recall_at(5), cutoff=5))
register(Metric("recall@10", "Recall@10", recall_at(10), display="headline", cutoff=10))
register(Metric("mrr", "MRR", reciprocal_rank, display="chart"))
register(Metric("ndcg@10", "nDCG@10", ndcg_at(10), display="headline"))
register(Metric("map", "MAP", average_precision))
register(Metric("median_rank", "Median rank", best_rank, reduce="median", lower_is_better=True, needs_best_ranks=True))


def metric_names() -> tuple[str, ...]:
    """Returns all metrics, in display order."""
    return tuple(METRICS)


def comparable_names() -> tuple[str, ...]:
    """Returns the metrics by which models and configurations can be compared."""
    return tuple(name for name, metric in METRICS.items() if metric.is_comparable)


def headline_names() -> tuple[str, ...]:
    """Returns the metrics of short tables."""
    return tuple(name for name, metric in METRICS.items() if metric.display == "headline")


def charted_names() -> tuple[str, ...]:
    """Returns the metrics of charts and slices, including the headline metrics."""
    return tuple(name for name, metric in METRICS.items() if metric.display != "table")


def logged_name(name: str) -> str:
    """Returns `recall_at_10` for `recall@10`, since MLflow's names allow no @."""
    return name.replace("@", "_at_")


def query_metrics(scored: ScoredQueries) -> dict[str, Floats]:
    """Returns the value of each query by metric, (queries,). Metrics that need the best ranks are left out if these are unknown."""
    known = (metric for metric in METRICS.values() if scored.best_ranks is not None or not metric.needs_best_ranks)
    return {metric.name: metric.per_query(scored) for metric in known}


def summarise(values: Mapping[str, Floats]) -> dict[str, float]:
    """Returns one number for each metric from its values by query, (queries,), in the table's order."""
    return {name: float(REDUCE[metric.reduce](values[name])) for name, metric in METRICS.items() if name in values}
