"""An evaluation measures the recommended configuration in search engines."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reelnest.errors import ConfigError, DataError
from reelnest.evaluation.configurations import Configuration
from reelnest.evaluation.evaluation import Vectors, evaluate_vectors
from reelnest.evaluation.retrieval_sets import RetrievalSet
from reelnest.evaluation.split_evaluation import EmbeddedSplit
from reelnest.profiling import engines as measuring
from reelnest.search.storage_types import index_bytes
from reelnest.settings import Evaluate
from reelnest.stages.evaluation_entries import check_engines, engine_entries

VIDEOS, WIDTH = 1000, 32


@pytest.fixture
def split() -> EmbeddedSplit:
    """Every query has two relevant videos, one of them hard to find. Itself is in the corpus too, and does not count."""
    rng = np.random.default_rng(0)
    corpus, items = rng.normal(size=(VIDEOS, WIDTH)), np.arange(VIDEOS)
    queries = items[::25]
    vectors = corpus[queries] + corpus[queries + 1] * rng.uniform(0, 1, (len(queries), 1))
    qrels = {int(query): {int(query) + 1: 1.0, int(query) + 2: 1.0} for query in queries}
    ignored = {int(query): np.array([query]) for query in queries}
    searched = RetrievalSet("text_to_video", queries, items, qrels, ignored=ignored)
    return EmbeddedSplit([searched], *(Vectors(*each) for each in ((queries, _tensor(vectors)), (items, _tensor(corpus)))))


def _tensor(vectors: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(vectors.astype(np.float32))


def test_exact_engines_find_what_the_evaluation_finds_at_every_selectivity(
    split: EmbeddedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "SECONDS", 0.01)
    settings = Evaluate(engines=("qdrant-edge",))
    rows = engine_entries(split, Configuration(WIDTH), settings, tmp_path)
    assert [(row.engine, row.rows) for row in rows] == [(name, size) for name in ("folder", "qdrant-edge") for size in (1000, 100, 10, 1)]
    assert all(row.recall == 1 for row in rows)
    evaluated = evaluate_vectors(split.sets, split.queries, split.targets, (WIDTH,), 100).value("recall@10")
    assert evaluated is not None
    assert 0 < evaluated < 1
    assert [row.label_recall for row in rows] == [pytest.approx(evaluated), None, None, None] * 2
    assert all([load.clients for load in row.loads] == [1, 8, 32] for row in rows)
    assert all(0 < load.p50_ms <= load.p99_ms and load.queries_per_second > 0 for row in rows for load in row.loads)
    assert all(row.disk_bytes is not None and row.disk_bytes >= index_bytes(VIDEOS, WIDTH, "float32") for row in rows)
    assert not list(tmp_path.iterdir())


def test_the_recommended_funnel_and_storage_type_are_measured(
    split: EmbeddedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "SECONDS", 0.01)
    monkeypatch.setattr(measuring, "SELECTIVITIES", (1.0,))
    settings = Evaluate(engines=("folder", "qdrant-edge", "milvus-lite"))
    funnel = Configuration(WIDTH, "int8", (8, WIDTH), (20,))
    rows = engine_entries(split, funnel, settings, tmp_path)
    assert [(row.engine, row.storage) for row in rows] == [("folder", "int8"), ("qdrant-edge", "int8"), ("milvus-lite", "float32")]
    assert all(0.1 < row.recall < 0.9 for row in rows)  # a shortlist of 20 at 8 dims loses some
    assert np.ptp([row.recall for row in rows]) < 0.05


def test_a_server_that_cannot_be_reached_is_named_before_the_evaluation(database_address: str, local_qdrant: str, tmp_path: Path) -> None:
    check_engines(Evaluate(engines=(database_address, local_qdrant, "qdrant-edge", "milvus-lite")), tmp_path)  # without an index yet
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"postgresql://127.0.0.1:9/db#reelnest_measured: .*refused"):
        check_engines(Evaluate(engines=("postgresql://127.0.0.1:9/db",)), tmp_path)


def test_without_engines_nothing_is_measured_and_an_unknown_one_is_refused(split: EmbeddedSplit, tmp_path: Path) -> None:
    assert engine_entries(split, Configuration(WIDTH), Evaluate(), tmp_path) == ()
    with pytest.raises(ConfigError, match="unknown search engine 'qdrant-edg'"):
        check_engines(Evaluate(engines=("folder", "qdrant-edg")), tmp_path)
