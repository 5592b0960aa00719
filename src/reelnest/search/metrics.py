"""Retrieval metrics for each query, as trec_eval defines them, from rankings and graded right answers.

They are computed here and not through pytrec_eval because trec_eval knows only whole grades, orders equal scores by its own rule, and wants
every answer as a dictionary entry; only the ranks of the right answers matter. The tests hold them to pytrec_eval's figures.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

METRICS = ("recall@1", "recall@5", "recall@10", "mrr", "ndcg@10", "map", "median_rank")
"""In the order in which they are shown. The last is a median over queries; the others are means."""

RECALL_AT = (1, 5, 10)
NDCG_AT = 10


def query_metrics(hits: Sequence[tuple[int, float]], grades: Sequence[float]) -> dict[str, float]:
    """All metrics but the median rank, for one query.

    Args:
        hits: rank (from 1) and grade of each right answer that was found, within the depth that is kept.
        grades: grades of all right answers of the query, found or not; all above 0, at least one.

    Recall@k is the share of all right answers that stand in the first k (trec_eval's recall_k). MRR is 1 / rank of the first one. MAP
    averages the precision at each right answer, 0 for those not found. nDCG@10 takes the grade itself as gain, discounted by
    log2(rank + 1), over that of the best possible order. Järvelin and Kekäläinen 2002, https://doi.org/10.1145/582415.582418.
    """
    hits = sorted(hits)
    relevant = len(grades)
    metrics = {f"recall@{k}": sum(rank <= k for rank, _ in hits) / relevant for k in RECALL_AT}
    metrics["mrr"] = 1 / hits[0][0] if hits else 0.0
    ideal = sorted(grades, reverse=True)[:NDCG_AT]
    metrics[f"ndcg@{NDCG_AT}"] = _dcg((rank, grade) for rank, grade in hits if rank <= NDCG_AT) / _dcg(enumerate(ideal, start=1))
    metrics["map"] = sum(found / rank for found, (rank, _) in enumerate(hits, start=1)) / relevant
    return metrics


def summarise(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """One figure for each metric from its values for each query, (queries,): the mean, and for `median_rank` the median."""
    return {name: float(np.median(values[name]) if name == "median_rank" else np.mean(values[name])) for name in METRICS}


def _dcg(gains: Iterable[tuple[int, float]]) -> float:
    return float(sum(grade / np.log2(rank + 1) for rank, grade in gains))
