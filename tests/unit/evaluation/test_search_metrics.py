"""Metrics, against pytrec_eval on random graded cases."""

import numpy as np
import pytest
import pytrec_eval

from reelnest.evaluation.metrics import METRICS, Hits, Metric, Relevance, ScoredQueries, query_metrics, register

TREC_NAMES = {
    "recall@1": "recall_1",
    "hit@1": "success_1",
    "recall@5": "recall_5",
    "recall@10": "recall_10",
    "mrr": "recip_rank",
    "ndcg@10": "ndcg_cut_10",
    "map": "map",
}


def hits(found: list[tuple[int, int, float]]) -> Hits:
    """From (query, rank, grade) of each right answer."""
    columns = np.array(found, dtype=float).reshape(-1, 3).T
    return Hits(columns[0].astype(int), columns[1].astype(int), columns[2])


def test_figures_equal_trec_eval_on_a_thousand_graded_queries_with_equal_scores() -> None:
    """trec_eval orders equal scores by the document's name, last name first; ours by row. Rows are named so that both mean the same."""
    random = np.random.default_rng(0)
    scores, grades = np.zeros((1000, 60)), np.zeros((1000, 60), dtype=int)
    kept = random.integers(1, 61, size=1000)
    for query, corpus in enumerate(kept.tolist()):
        scores[query, :corpus] = random.integers(1, 8, size=corpus) / 8  # 7 scores for up to 60 answers: most are equal to another
        right = random.choice(60, size=int(random.integers(1, 16)), replace=False)  # those from `corpus` on cannot be found
        grades[query, right] = random.integers(1, 4, size=len(right))

    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = [[(query, rank + 1, grades[query, row]) for rank, row in enumerate(order[query, : kept[query]])] for query in range(1000)]
    relevance = Relevance.of([row[row > 0].tolist() for row in grades])
    ours = query_metrics(ScoredQueries(hits([one for found in ranked for one in found if one[2]]), relevance))

    def name(row: int) -> str:
        return f"d{99 - row}"

    run = {f"q{query}": {name(row): scores[query, row] for row in range(kept[query])} for query in range(1000)}
    qrels = {f"q{query}": {name(row): int(grades[query, row]) for row in np.flatnonzero(grades[query])} for query in range(1000)}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, set(TREC_NAMES.values())).evaluate(run)
    for metric, trec in TREC_NAMES.items():
        expected = [theirs[f"q{query}"][trec] for query in range(1000)]
        np.testing.assert_allclose(ours[metric], expected, rtol=0, atol=1e-9, err_msg=metric)


def test_a_fraction_of_a_grade_counts_as_right_and_as_that_much_gain() -> None:
    # Ideal: 1 + 0.5/log2(3); found: 0.5 first, 1 second.
    metrics = query_metrics(ScoredQueries(hits([(0, 1, 0.5), (0, 2, 1.0)]), Relevance.of([[0.5, 1.0]])))
    assert metrics["ndcg@10"].tolist() == pytest.approx([(0.5 + 1 / np.log2(3)) / (1 + 0.5 / np.log2(3))])
    assert metrics["recall@1"].tolist() == [0.5]
    assert metrics["map"].tolist() == [1.0]


def test_nothing_found_is_zero_in_every_metric() -> None:
    metrics = query_metrics(ScoredQueries(hits([(1, 1, 1.0)]), Relevance.of([[1.0, 2.0], [1.0]])))
    assert {values[0] for values in metrics.values()} == {0.0}
    assert {values[1] for values in metrics.values()} == {1.0}


def test_a_metric_of_ranks_below_the_depth_is_left_out_where_these_are_not_known() -> None:
    found = hits([(0, 2, 1.0)])
    relevance = Relevance.of([[1.0], [1.0]])
    assert "median_rank" not in query_metrics(ScoredQueries(found, relevance))
    ranks = np.array([2.0, 70.0])
    assert query_metrics(ScoredQueries(found, relevance, ranks))["median_rank"].tolist() == [2.0, 70.0]


@pytest.mark.parametrize("name", ["mrr", "Recall@3", "a,b", "recall@"])
def test_a_metric_needs_a_name_of_its_own_that_a_csv_file_takes(name: str) -> None:
    before = dict(METRICS)
    with pytest.raises(ValueError, match=f"metric '{name}'"):
        register(Metric(name, "Title", METRICS["mrr"].per_query))
    assert before == METRICS
