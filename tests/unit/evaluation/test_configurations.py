"""Dims, storage types and funnels side by side, on vectors whose answers are known."""

import numpy as np
import pytest
import torch

from reelnest.errors import ConfigError
from reelnest.evaluation.configurations import Configuration, Measured, configurations, measure
from reelnest.evaluation.evaluation import Evaluation, Vectors, evaluate_vectors
from reelnest.evaluation.retrieval_sets import RetrievalSet
from reelnest.settings import Evaluate, Funnel

DIMS = (8, 32)
ALL_TYPES = Evaluate(storage=("float32", "float16", "int8", "binary", "binary_int8"), shortlist=15)


def names(settings: Evaluate, dims: tuple[int, ...] = DIMS) -> list[str]:
    return [one.name for one in configurations(dims, settings)]


def test_every_dim_is_joined_with_every_storage_type_and_every_funnel() -> None:
    assert names(Evaluate()) == ["8", "32", "8 int8", "32 int8", "8 binary", "32 binary", "funnel 8→32", "funnel 8→32 int8"]
    assert names(Evaluate(storage=("float16",), funnels=())) == ["8 float16", "32 float16"]
    funnel = Funnel(dims=(4, 8, 16), shortlists=(9, 5))
    assert names(Evaluate(storage=("int8",), funnels=(funnel,))) == ["8 int8", "32 int8", "funnel 4→8→16 int8"]
    assert names(Evaluate(storage=("binary",), funnels=(funnel,))) == ["8 binary", "32 binary"]
    assert names(Evaluate(storage=("float32",)), (32,)) == ["32"]
    assert configurations(DIMS, ALL_TYPES)[-1] == Configuration(32, "int8", (8, 32), (15,))


def test_a_funnel_beyond_the_vectors_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.funnels: a funnel ends at dim 64, but this model.s vectors have 32"):
        configurations(DIMS, Evaluate(funnels=(Funnel(dims=(8, 64), shortlists=(5,)),)))


def test_each_configuration_has_its_share_of_queries_with_a_relevant_item_above_their_listed_negatives() -> None:
    """The first dim of each item is its own number; the others differ, so that 8 dims find the relevant item and 1 bit does not."""
    items = np.arange(12)
    vectors = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    negatives = {query: np.array([(query + 1) % 12, (query + 2) % 12]) for query in range(6)}
    searched = RetrievalSet("text_to_video", items, items, {query: {query: 1.0} for query in range(12)}, negatives)
    queries, targets = Vectors(items, vectors + 0.3), Vectors(items, vectors)
    evaluation = evaluate_vectors([searched], queries, targets, (1, 8), 100)
    listed = [Configuration(1), Configuration(8), Configuration(8, "int8"), Configuration(1, "binary", shortlists=(1,))]
    by_name = {one.configuration.name: one.above_negatives for one in measure(listed, evaluation, queries, targets, 100, 0.95)}
    exact = {str(outranked.dim): outranked.value for outranked in evaluation.outranked}
    assert {name: by_name[name] for name in exact} == exact
    assert by_name["8 int8"] == pytest.approx(by_name["8"], abs=0.2)
    assert by_name["8"] > 0.8
    assert by_name["1 binary"] <= 0.5  # one result of one bit rarely is the relevant item


def test_a_configuration_says_what_it_takes() -> None:
    assert Configuration(32, "int8").bytes_per_vector == 32
    assert Configuration(32, funnel=(8, 32), shortlists=(5,)).bytes_per_vector == 128
    assert Configuration(32, "binary", shortlists=(5,)).index_bytes(1000) == 4000


@pytest.fixture(scope="module")
def evaluated() -> tuple[Evaluation, dict[str, Measured]]:
    """Two kinds of pairs; each query is its answer and noise, and an answer that is ignored lies nearer to it."""
    random = np.random.default_rng(0)
    items = np.arange(120)
    vectors = random.normal(size=(120, 32)) / np.sqrt(np.arange(1, 33))
    noisy = vectors + 0.8 * random.normal(size=(120, 32)) / np.sqrt(np.arange(1, 33))
    vectors[100:] = noisy[:20]
    sets = [
        RetrievalSet(kind, items[:100], corpus, {q: {q: 1.0} for q in range(100)}, ignored={q: np.array([q + 100]) for q in range(20)})
        for kind, corpus in (("text_to_video", items), ("video_to_text", items))
    ]
    queries, targets = (Vectors(items, torch.from_numpy(rows).float()) for rows in (noisy, vectors))
    evaluation = evaluate_vectors(sets, queries, targets, DIMS, 100, 0.95)
    measured = measure(configurations(DIMS, ALL_TYPES), evaluation, queries, targets, 100, 0.95)
    return evaluation, {one.configuration.name: one for one in measured}


def test_floats_are_what_the_evaluation_found(evaluated: tuple[Evaluation, dict[str, Measured]]) -> None:
    evaluation, measured = evaluated
    for result in evaluation.results:
        one = measured[str(result.dim)]
        assert (one.metrics[result.pair_kind], one.intervals[result.pair_kind]) == (result.metrics, result.intervals)


def test_each_type_loses_as_much_as_it_leaves_out(evaluated: tuple[Evaluation, dict[str, Measured]]) -> None:
    found = {name: one.metrics["all"]["mrr"] for name, one in evaluated[1].items()}
    assert found["32 float16"] == pytest.approx(found["32"], abs=1e-3)
    assert found["32 int8"] == pytest.approx(found["32"], abs=0.02)
    assert found["32 binary_int8"] == pytest.approx(found["32 int8"], abs=0.05)
    assert found["8 binary"] < found["8"] < found["32 binary"]
    assert found["8 int8"] < found["funnel 8→32 int8"] <= found["32 int8"]
    assert found["funnel 8→32"] == pytest.approx(found["funnel 8→32 int8"], abs=0.02)
    assert all(value > 0.3 for value in found.values())


def test_ignored_answers_stand_in_no_ones_way(evaluated: tuple[Evaluation, dict[str, Measured]]) -> None:
    """They are the query itself, so that a reciprocal rank would be 1/2 at most."""
    for one in evaluated[1].values():
        if one.configuration.dim == 32:
            of_ignoring = np.concatenate([by_query.values["mrr"][:20] for by_query in one.by_query])
            assert of_ignoring.mean() > 0.6


def test_every_figure_has_its_interval_and_every_configuration_its_speed(evaluated: tuple[Evaluation, dict[str, Measured]]) -> None:
    for name, one in evaluated[1].items():
        assert list(one.metrics) == ["text_to_video", "video_to_text", "all"]
        assert ("median_rank" in one.metrics["all"]) == (name in ("8", "32"))
        for kind, metrics in one.metrics.items():
            assert all(one.intervals[kind][metric][0] <= value <= one.intervals[kind][metric][1] for metric, value in metrics.items())
        assert 0 < one.speed.low <= one.speed.median <= one.speed.high
