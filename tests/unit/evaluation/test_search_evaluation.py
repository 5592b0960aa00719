"""Evaluation of vectors, against pytrec_eval with a run of its own and against plain counting."""

import math

import numpy as np
import pytest
import pytrec_eval
import torch

from reelnest.errors import DataError, ModelError
from reelnest.evaluation.evaluation import Evaluation, Vectors, evaluate_vectors
from reelnest.evaluation.metrics import METRICS
from reelnest.evaluation.retrieval_sets import RetrievalSet

DIMS = (2, 3, 6)
TREC_NAMES = {
    "recall_1": "recall@1",
    "success_1": "hit@1",
    "recall_5": "recall@5",
    "recall_10": "recall@10",
    "recip_rank": "mrr",
    "ndcg_cut_10": "ndcg@10",
    "map": "map",
}


def vectors(items: np.ndarray, random: np.random.Generator, width: int = 6) -> Vectors:
    # Axes with signs: every prefix has one, two or four equal entries, so cosines are exact and ties are many.
    values = np.zeros((len(items), width), dtype=np.float32)
    for prefix in (slice(0, 1), slice(2, 3), slice(3, 6)):
        chosen = random.integers(prefix.start, prefix.stop, size=len(items))
        values[np.arange(len(items)), chosen] = random.choice([-1.0, 1.0], size=len(items))
    return Vectors(items, torch.from_numpy(values))


def a_set(random: np.random.Generator, kind: str = "video_to_video", grades: int = 3) -> RetrievalSet:
    corpus = np.sort(random.choice(200, size=int(random.integers(2, 50)), replace=False))
    queries = np.sort(random.choice(200, size=int(random.integers(1, 30)), replace=False))
    qrels: dict[int, dict[int, float]] = {}
    ignored: dict[int, np.ndarray] = {}
    for query in queries.tolist():
        others = corpus[corpus != query]
        right = random.choice(others, size=int(random.integers(1, min(6, len(others)) + 1)), replace=False)
        qrels[query] = {int(item): float(random.integers(1, grades + 1)) for item in right}
        left_out = others[(random.random(len(others)) < 0.1) & ~np.isin(others, right)]
        ignored[query] = np.sort(np.append(left_out, query)) if query in corpus else left_out
    return RetrievalSet(kind, queries, corpus, qrels, ignored={query: items for query, items in ignored.items() if len(items)})


def order_by_counting(searched: RetrievalSet, queries: Vectors, targets: Vectors, dim: int) -> dict[int, list[int]]:
    """Each query's whole order of answers: cosines in float64, equals by item."""
    found = {}
    for query, q in zip(searched.queries.tolist(), queries.of(searched.queries).double()[:, :dim], strict=True):
        scored = []
        for item, c in zip(searched.corpus.tolist(), targets.of(searched.corpus).double()[:, :dim], strict=True):
            if item not in searched.ignored.get(query, np.empty(0)):
                # Rounded, so that equals computed in another order stay equal.
                scored.append((-round(float(q @ c / (q.norm() * c.norm()).clamp_min(1e-12)), 6), item))
        found[query] = [item for _, item in sorted(scored)]
    return found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("depth", [10, 1000])
def test_figures_equal_trec_eval_with_ties_grades_and_ignored_answers(seed: int, depth: int) -> None:
    random = np.random.default_rng(seed)
    searched = a_set(random)
    queries, targets = vectors(searched.queries, random), vectors(searched.corpus, random)
    evaluation = evaluate_vectors([searched], queries, targets, DIMS, depth)
    judge = pytrec_eval.RelevanceEvaluator(
        {str(query): {str(item): int(grade) for item, grade in grades.items()} for query, grades in searched.qrels.items()}, set(TREC_NAMES)
    )
    for dim in DIMS:
        order = order_by_counting(searched, queries, targets, dim)
        run = {str(query): {str(item): float(-rank) for rank, item in enumerate(items[:depth])} for query, items in order.items()}
        theirs = judge.evaluate(run)
        for trec, name in TREC_NAMES.items():
            expected = sum(figures[trec] for figures in theirs.values()) / len(searched.queries)
            assert evaluation.value(name, "video_to_video", dim) == pytest.approx(expected, abs=1e-9)
        ranks = [min(order[query].index(item) for item in searched.qrels[query]) + 1 for query in searched.queries.tolist()]
        assert evaluation.value("median_rank", "video_to_video", dim) == np.median(ranks)


def test_all_is_the_mean_over_the_queries_of_all_kinds() -> None:
    random = np.random.default_rng(5)
    sets = [a_set(random, kind) for kind in ("text_to_video", "video_to_text", "text_to_text")]
    everything = np.arange(200)
    queries, targets = vectors(everything, random), vectors(everything, random)
    evaluation = evaluate_vectors(sets, queries, targets, DIMS, depth=10)
    for name in METRICS:
        if name != "median_rank":
            total = sum(len(s.queries) * (evaluation.value(name, s.pair_kind) or 0.0) for s in sets)
            assert evaluation.value(name) == pytest.approx(total / sum(len(s.queries) for s in sets))
    last = evaluation.results[-1]
    assert (last.pair_kind, last.dim, last.queries) == ("all", 6, sum(len(s.queries) for s in sets))


def test_answers_of_the_full_width_hold_the_order_without_what_is_ignored() -> None:
    random = np.random.default_rng(11)
    searched = a_set(random)
    queries, targets = vectors(searched.queries, random), vectors(searched.corpus, random)
    (answers,) = evaluate_vectors([searched], queries, targets, DIMS, depth=10).retrieved
    order = order_by_counting(searched, queries, targets, DIMS[-1])
    assert [found.tolist() for found in answers.items] == [order[query][:10] for query in searched.queries.tolist()]
    assert all(len(found) == len(scores) for found, scores in zip(answers.items, answers.scores, strict=True))


def plain(rows: list[list[float]], items: list[int]) -> Vectors:
    return Vectors(np.array(items), torch.tensor(rows))


def outranked(evaluation: Evaluation) -> dict[int, tuple[float, int]]:
    return {found.dim: (found.value, found.queries) for found in evaluation.outranked}


def test_negatives_are_outranked_only_by_a_strictly_better_right_answer() -> None:
    searched = RetrievalSet(
        "text_to_video",
        np.array([0, 1, 2]),
        np.array([10, 11, 12]),
        {0: {10: 1.0}, 1: {11: 1.0}, 2: {12: 1.0}},
        negatives={0: np.array([11, 12]), 1: np.array([10])},
    )
    # At dim 1 all directions are equal: a tie does not count as outranked.
    queries = plain([[1.0, 0.5], [1.0, 0.2], [1.0, 0.0]], [0, 1, 2])
    targets = plain([[1.0, 0.6], [1.0, -0.9], [1.0, 0.0]], [10, 11, 12])
    evaluation = evaluate_vectors([searched], queries, targets, (1, 2), depth=10)
    assert outranked(evaluation) == {1: (0.0, 2), 2: (0.5, 2)}


def test_the_rank_of_an_answer_below_the_depth_is_exact() -> None:
    corpus = np.arange(100, 140)
    searched = RetrievalSet("text_to_video", np.array([0]), corpus, {0: {135: 1.0}}, ignored={0: np.array([100, 101])})
    angles = torch.linspace(0, 1, 40)
    evaluation = evaluate_vectors(
        [searched], plain([[1.0, 0.0]], [0]), Vectors(corpus, torch.stack([angles.cos(), angles.sin()], dim=1)), (2,), depth=10
    )
    assert evaluation.value("median_rank") == 34  # 36th by angle, two before it are ignored
    assert evaluation.value("mrr") == 0.0


def test_a_corpus_of_one_item() -> None:
    searched = RetrievalSet("text_to_video", np.array([3]), np.array([7]), {3: {7: 1.0}})
    evaluation = evaluate_vectors([searched], plain([[1.0, 0.0]], [3]), plain([[-1.0, 0.1]], [7]), (1, 2), depth=1000)
    assert {name: evaluation.value(name) for name in METRICS} == dict.fromkeys(METRICS, 1.0)


def test_a_query_without_a_right_answer_is_refused_by_its_number() -> None:
    vectors_of = plain([[1.0, 0.0], [0.0, 1.0]], [3, 4]), plain([[1.0, 0.0]], [7])
    for right, expected in (({}, "1 of 2 queries have no relevant item .the first is item 4"), ({8: 1.0}, "not in the corpus .* item 8")):
        searched = RetrievalSet("text_to_video", np.array([3, 4]), np.array([7]), {3: {7: 1.0}, 4: right})
        with pytest.raises(DataError, match=expected):
            evaluate_vectors([searched], *vectors_of, (2,), depth=10)


def test_no_sets_give_an_evaluation_without_figures() -> None:
    nothing = Vectors(np.empty(0, dtype=np.int64), torch.empty(0, 4))
    evaluation = evaluate_vectors([], nothing, nothing, (2, 4), depth=10)
    assert evaluation.results == ()
    assert evaluation.value("recall@10") is None


def test_nan_vectors_are_refused() -> None:
    searched = RetrievalSet("text_to_video", np.array([3]), np.array([7]), {3: {7: 1.0}})
    with pytest.raises(ModelError, match="NaN"):
        evaluate_vectors([searched], plain([[math.nan, 0.0]], [3]), plain([[1.0, 0.0]], [7]), (2,), depth=10)


def test_an_item_without_a_vector_is_an_error_and_not_another_items_vector() -> None:
    with pytest.raises(KeyError, match="have no vector"):
        plain([[1.0], [2.0]], [3, 5]).of(np.array([3, 4]))
