"""The table of retrieval metrics. To add a metric, add a row to it: settings, reports, pages, plots, gate and MLflow read this table.

A metric gives a number for each query. They are computed here and not through pytrec_eval because trec_eval knows only whole grades, orders
equal scores by its own rule, and wants every result as a dictionary entry; only the ranks of the relevant items matter. The tests compare
the rows with pytrec_eval.
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
    """The relevant items that were found within the depth that is kept, by query and then by rank."""

    query: NDArray[np.int64]  # (hits,), the query's position, rising
    rank: NDArray[np.int64]  # (hits,), from 1
    grade: Floats  # (hits,), above 0

    @cached_property
    def number(self) -> NDArray[np.int64]:
        """Which of its query's hits each one is, from 1: (hits,)."""
        first = np.searchsorted(self.query, self.query)  # the place of the query's first hit
        return np.arange(len(self.query)) - first + 1


@dataclass(frozen=True)
class Relevance:
    """What there is to be found for each query."""

    counts: NDArray[np.int64]  # (queries,), relevant items of each, at least 1
    grades: Sequence[Sequence[float]]
    """Of the relevant items of each query, in any order."""
    _ideal: dict[int, Floats] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, grades: Sequence[Sequence[float]]) -> Self:
        """Relevance from the grades of all relevant items of each query, in any order."""
        return cls(np.array([len(of_query) for of_query in grades], dtype=np.int64), grades)

    def ideal_dcg(self, k: int) -> Floats:
        """The discounted gain of the best possible first k, (queries,)."""
        if k not in self._ideal:
            best = (np.sort(np.asarray(of_query))[::-1][:k] for of_query in self.grades)
            self._ideal[k] = np.array([float(np.sum(grades / np.log2(np.arange(2, len(grades) + 2)))) for grades in best])
        return self._ideal[k]


@dataclass(frozen=True)
class ScoredQueries:
    """What was found for some queries: all that a metric is computed from."""

    hits: Hits
    relevance: Relevance
    best_ranks: Floats | None = None
    """The rank of each query's first relevant item, also of one below the depth: (queries,). None where no search says so."""

    def total(self, values: NDArray[np.number]) -> Floats:
        """The sum of one value a hit over each query's hits, (queries,)."""
        return np.bincount(self.hits.query, values, minlength=len(self.relevance.counts)).astype(np.float64)


@dataclass(frozen=True)
class Metric:
    """A row of the table."""

    name: str
    """As params.yaml and the reports write it: small letters, digits and _, and where it has a cut-off, @ and a number."""
    title: str
    """As papers write it, for pages."""
    per_query: Callable[[ScoredQueries], Floats]
    """Gives a number for each query, (queries,)."""
    reduce: Literal["mean", "median"] = "mean"
    """What the number over all queries is."""
    lower_is_better: bool = False
    shown: Literal["headline", "chart", "table"] = "table"
    """table: in the tables of all metrics; chart: also drawn, and in slices and a run's summary; headline: also in `metrics.json`, the
    model card and other short tables."""
    needs_best_ranks: bool = False
    """Whether it reads `best_ranks`: it is then known of exact float32 search alone."""

    def __post_init__(self) -> None:
        """Raises ValueError for a name that a CSV file or a tracker would not take."""
        if not NAME.fullmatch(self.name):
            raise ValueError(f"metric '{self.name}': expected a name such as recall@10 or median_rank")

    @property
    def is_comparable(self) -> bool:
        """Whether models and configurations can be compared by it: a mean, higher is better, known of every configuration."""
        return self.reduce == "mean" and not self.lower_is_better and not self.needs_best_ranks


METRICS: dict[str, Metric] = {}
"""By name, in the order in which they are shown."""


def register(metric: Metric) -> Metric:
    """Adds a row to the table. Raises ValueError where there is a metric of that name."""
    if metric.name in METRICS:
        raise ValueError(f"metric '{metric.name}': there is one of that name already")
    METRICS[metric.name] = metric
    return metric


def recall_at(k: int) -> Callable[[ScoredQueries], Floats]:
    """The share of all relevant items that are in the first k: trec_eval's recall_k."""
    return lambda found: found.total((found.hits.rank <= k) * 1.0) / found.relevance.counts


def reciprocal_rank(found: ScoredQueries) -> Floats:
    """1 / rank of the first relevant item."""
    return found.total((found.hits.number == 1) / found.hits.rank.astype(np.float64))


def ndcg_at(k: int) -> Callable[[ScoredQueries], Floats]:
    """The grades of the first k, discounted by log2(rank + 1), over those of the best possible order.

    Järvelin and Kekäläinen 2002, https://doi.org/10.1145/582415.582418.
    """

    def ndcg(found: ScoredQueries) -> Floats:
        gains = found.hits.grade * (found.hits.rank <= k) / np.log2(found.hits.rank + 1.0)
        return found.total(gains) / found.relevance.ideal_dcg(k)

    return ndcg


def average_precision(found: ScoredQueries) -> Floats:
    """The mean precision at each relevant item, 0 for those not found."""
    return found.total(found.hits.number / found.hits.rank) / found.relevance.counts


def best_rank(found: ScoredQueries) -> Floats:
    """The rank of the first relevant item. Raises ValueError where it is not known."""
    if found.best_ranks is None:
        raise ValueError("the ranks below the depth were not asked for")
    return found.best_ranks


register(Metric("recall@1", "Recall@1", recall_at(1), shown="headline"))
register(Metric("recall@5", "Recall@5", recall_at(5)))
register(Metric("recall@10", "Recall@10", recall_at(10), shown="headline"))
register(Metric("mrr", "MRR", reciprocal_rank, shown="chart"))
register(Metric("ndcg@10", "nDCG@10", ndcg_at(10), shown="headline"))
register(Metric("map", "MAP", average_precision))
register(Metric("median_rank", "Median rank", best_rank, reduce="median", lower_is_better=True, needs_best_ranks=True))


def metric_names() -> tuple[str, ...]:
    """All metrics, in their order."""
    return tuple(METRICS)


def comparable_names() -> tuple[str, ...]:
    """The metrics by which models and configurations can be compared."""
    return tuple(name for name, metric in METRICS.items() if metric.is_comparable)


def headline_names() -> tuple[str, ...]:
    """The few metrics for a short table."""
    return tuple(name for name, metric in METRICS.items() if metric.shown == "headline")


def charted_names() -> tuple[str, ...]:
    """The metrics that are drawn, and those of slices; the headline's are among them."""
    return tuple(name for name, metric in METRICS.items() if metric.shown != "table")


def logged_name(name: str) -> str:
    """`recall@10` as `recall_at_10`: MLflow's names allow no @."""
    return name.replace("@", "_at_")


def query_metrics(found: ScoredQueries) -> dict[str, Floats]:
    """Each metric of each query, (queries,) by name; without those that need the best ranks where these are not known."""
    known = (metric for metric in METRICS.values() if found.best_ranks is not None or not metric.needs_best_ranks)
    return {metric.name: metric.per_query(found) for metric in known}


def summarise(values: Mapping[str, Floats]) -> dict[str, float]:
    """One number for each metric from its values for each query, (queries,), in the table's order."""
    return {name: float(REDUCE[metric.reduce](values[name])) for name, metric in METRICS.items() if name in values}
