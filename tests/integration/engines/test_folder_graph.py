"""A folder's graph of nearest neighbours is changed where the videos differ, and gives the results of one that is built anew."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from usearch.index import Index as Graph

from reelnest.engines.engine import Item
from reelnest.engines.folder import FolderEngine
from reelnest.engines.folder_files import GRAPH_FILE, LABELS_FILE
from reelnest.records.formats import Video
from reelnest.search.filters import Not, OneOf
from tests.integration.engines.test_engines import manifest

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(3000, 16)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
DIM = 8
ANY = Not(OneOf("video_id", ("none",)))
"""A filter, with which a search does not use the graph."""


def write(folder: Path, version: str, numbers: Collection[int], **about: Any) -> FolderEngine:
    engine = FolderEngine(str(folder))
    engine.create(version, manifest(len(numbers), DIM).model_copy(update=about), [])
    engine.upsert(version, [Item(Video(f"v{each:04}", f"{each}.mp4", (), {}, 1), f"key {each}", VECTORS[each]) for each in numbers])
    engine.build(version)
    engine.activate(version)
    return engine


def recall(engine: FolderEngine) -> float:
    """The share of the exact shortlist's results that the graph's has."""
    shared = []
    for query in VECTORS[::100] + 0.1:
        approximate = engine.search(query, 10, dim=DIM, shortlist=50)
        exact = engine.search(query, 10, dim=DIM, shortlist=50, condition=ANY)
        shared.append(len({*approximate.ids} & {*exact.ids}) / 10)
    return float(np.mean(shared))


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of vectors that are added to graphs."""
    counts: list[int] = []
    add: Callable[..., Any] = Graph.add

    def counted(self: Graph, keys: Any, vectors: Any, **options: Any) -> Any:
        counts.append(len(keys))
        return add(self, keys, vectors, **options)

    monkeypatch.setattr(Graph, "add", counted)
    return counts


def test_only_what_differs_is_added(tmp_path: Path, added: list[int]) -> None:
    write(tmp_path / "index", "aa", range(2000))
    changed = [*range(100, 2000), *range(2500, 2600)]
    engine = write(tmp_path / "index", "bb", changed)
    assert added == [2000, 100]
    anew = write(tmp_path / "anew", "aa", changed)
    assert recall(engine) > recall(anew) - 0.02 > 0.9
    found = {video_id for query in VECTORS for video_id in engine.search(query, 5, dim=DIM, shortlist=20).ids}
    assert found <= {f"v{number:04}" for number in changed}
    assert engine.search(VECTORS[2550], 1, dim=DIM, shortlist=20).ids == ["v2550"]


@pytest.mark.parametrize(
    ("about", "numbers"),
    [({"model_hash": "another"}, range(2000)), ({"precision": "bf16"}, range(2000)), ({}, range(1500, 3000)), ({}, range(2000, 2010))],
    ids=["another model", "another precision", "fewer than half of the videos", "all videos differ"],
)
def test_a_graph_is_built_anew_for(about: dict[str, str], numbers: range, tmp_path: Path, added: list[int]) -> None:
    write(tmp_path / "index", "aa", range(2000))
    write(tmp_path / "index", "bb", numbers, **about)
    assert added == [2000, len(numbers)]


def test_a_changed_video_leaves_the_graph_under_its_old_vector(tmp_path: Path) -> None:
    write(tmp_path / "index", "aa", range(2000))
    engine = FolderEngine(str(tmp_path / "index"))
    engine.create("bb", manifest(2000, DIM), [])
    keys = [f"key {number}" for number in range(1999)] + ["other bytes"]
    vectors = [*VECTORS[:1999], VECTORS[2900]]
    engine.upsert("bb", [Item(Video(f"v{each:04}", "a.mp4", (), {}, 1), keys[each], vectors[each]) for each in range(2000)])
    engine.build("bb")
    engine.activate("bb")
    assert engine.search(VECTORS[2900], 1, dim=DIM, shortlist=20).ids == ["v1999"]
    assert engine.search(VECTORS[2900], 1, dim=DIM, shortlist=20).scores == pytest.approx([1.0])


@pytest.mark.parametrize("file", [GRAPH_FILE, LABELS_FILE])
@pytest.mark.parametrize("content", [b"", b"no graph"])
def test_a_damaged_graph_is_built_anew(file: str, content: bytes, tmp_path: Path, added: list[int]) -> None:
    write(tmp_path / "index", "aa", range(2000))
    (tmp_path / "index" / file).write_bytes(content)
    engine = write(tmp_path / "index", "bb", range(2000))
    assert added == [2000, 2000]
    assert recall(engine) > 0.9


def test_older_indexes_are_searched_and_their_graph_of_cosines_is_built_anew(tmp_path: Path, added: list[int]) -> None:
    write(tmp_path / "index", "aa", range(2000))
    labels = np.load(tmp_path / "index" / LABELS_FILE)
    for numbers in (labels, np.arange(2000)):
        graph = Graph(ndim=DIM, metric="cos", dtype="f16")
        graph.add(numbers, VECTORS[:2000, :DIM])
        graph.save(tmp_path / "index" / GRAPH_FILE)
        np.save(tmp_path / "index" / LABELS_FILE, numbers)
        assert recall(FolderEngine(str(tmp_path / "index"))) > 0.9
    (tmp_path / "index" / LABELS_FILE).unlink()  # then they are the rows
    assert recall(FolderEngine(str(tmp_path / "index"))) > 0.9
    np.save(tmp_path / "index" / LABELS_FILE, labels)
    added.clear()
    write(tmp_path / "index", "bb", range(2000))
    assert added == [2000]
