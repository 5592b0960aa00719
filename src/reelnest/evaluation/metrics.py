"""Retrieval metrics of each query, as trec_eval defines them, from the ranks of graded right answers.

They are computed here and not through pytrec_eval because trec_eval knows only whole grades, orders equal scores by its own rule, and wants
every answer as a dictionary entry; only the ranks of the right answers matter. The tests hold them to pytrec_eval's figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

METRICS = ("recall@1", "recall@5", "recall@10", "mrr", "ndcg@10", "map", "median_rank")
"""In the order in which they are shown. The last is a median over queries; the others are means."""

RECALL_AT = (1, 5, 10)
NDCG_AT = 10


@dataclass(frozen=True)
class Hits:
    """The right answers that were found within the depth that is kept, by query and then by rank."""

    query: NDArray[np.int64]  # (hits,), the query's position, rising
    rank: NDArray[np.int64]  # (hits,), from 1
    grade: NDArray[np.float64]  # (hits,), above 0


@dataclass(frozen=True)
class Relevance:
    """What there is to be found for each query."""

    right_answers: NDArray[np.int64]  # (queries,), each at least 1
    ideal_dcg: NDArray[np.float64]  # (queries,), of the best possible order

    @classmethod
    def of(cls, grades: Sequence[Sequence[float]]) -> Self:
        """From the grades of all right answers of each query, in any order."""
        ideal = [float(np.sum(_discounted(np.sort(np.asarray(of_query))[::-1][:NDCG_AT]))) for of_query in grades]
        return cls(np.array([len(of_query) for of_query in grades], dtype=np.int64), np.array(ideal))


def query_metrics(hits: Hits, relevance: Relevance) -> dict[str, NDArray[np.float64]]:
    """All metrics but the median rank, of each query: (queries,).

    Recall@k is the share of all right answers that stand in the first k (trec_eval's recall_k). MRR is 1 / rank of the first one. MAP
    averages the precision at each right answer, 0 for those not found. nDCG@10 takes the grade itself as gain, discounted by
    log2(rank + 1), over that of the best possible order. Järvelin and Kekäläinen 2002, https://doi.org/10.1145/582415.582418.
    """
    queries = len(relevance.right_answers)

    def total(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        return np.bincount(hits.query, values, minlength=queries).astype(np.float64)

    first = np.searchsorted(hits.query, hits.query)  # the place of the query's first hit
    found_so_far = np.arange(len(hits.query)) - first + 1
    metrics = {f"recall@{k}": total((hits.rank <= k) * 1.0) / relevance.right_answers for k in RECALL_AT}
    metrics["mrr"] = total((found_so_far == 1) / hits.rank.astype(np.float64))
    gains = hits.grade * (hits.rank <= NDCG_AT) / np.log2(hits.rank + 1.0)
    metrics[f"ndcg@{NDCG_AT}"] = total(gains) / relevance.ideal_dcg
    metrics["map"] = total(found_so_far / hits.rank) / relevance.right_answers
    return metrics


def summarise(values: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """One figure for each metric from its values for each query, (queries,): the mean, and for `median_rank` the median."""
    return {name: float(np.median(values[name]) if name == "median_rank" else np.mean(values[name])) for name in METRICS if name in values}


def _discounted(grades: NDArray[np.float64]) -> NDArray[np.float64]:
    """The gains of answers of these grades, best first."""
    return grades / np.log2(np.arange(2, len(grades) + 2))
