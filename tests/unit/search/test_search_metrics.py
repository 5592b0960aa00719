"""Metrics, against pytrec_eval on random graded cases."""

import numpy as np
import pytest
import pytrec_eval

from reelnest.search.metrics import query_metrics

TREC_NAMES = {
    "recall@1": "recall_1",
    "recall@5": "recall_5",
    "recall@10": "recall_10",
    "mrr": "recip_rank",
    "ndcg@10": "ndcg_cut_10",
    "map": "map",
}


@pytest.mark.parametrize("seed", range(300))
def test_figures_equal_trec_eval(seed: int) -> None:
    random = np.random.default_rng(seed)
    corpus = int(random.integers(1, 60))
    kept = int(random.integers(1, corpus + 1))
    ranking = random.permutation(corpus)[:kept]
    right = random.choice(corpus, size=int(random.integers(1, min(corpus, 15) + 1)), replace=False)
    grades = dict(zip(right.tolist(), random.integers(1, 4, size=len(right)).tolist(), strict=True))

    hits = [(rank, float(grades[item])) for rank, item in enumerate(ranking.tolist(), start=1) if item in grades]
    ours = query_metrics(hits[::-1], [float(grade) for grade in grades.values()])

    run = {"q": {f"d{item}": 1000.0 - rank for rank, item in enumerate(ranking.tolist())}}
    judge = pytrec_eval.RelevanceEvaluator({"q": {f"d{item}": grade for item, grade in grades.items()}}, set(TREC_NAMES.values()))
    theirs = judge.evaluate(run)["q"]
    assert ours == pytest.approx({name: theirs[trec] for name, trec in TREC_NAMES.items()}, abs=1e-9)


def test_a_fraction_of_a_grade_counts_as_right_and_as_that_much_gain() -> None:
    # Ideal: 1 + 0.5/log2(3); found: 0.5 first, 1 second.
    metrics = query_metrics([(1, 0.5), (2, 1.0)], [1.0, 0.5])
    assert metrics["ndcg@10"] == pytest.approx((0.5 + 1 / np.log2(3)) / (1 + 0.5 / np.log2(3)))
    assert metrics["recall@1"] == 0.5
    assert metrics["map"] == 1.0


def test_nothing_found_is_zero_in_every_metric() -> None:
    assert set(query_metrics([], [1.0, 2.0]).values()) == {0.0}
