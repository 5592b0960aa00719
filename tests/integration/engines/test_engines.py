"""What holds for every engine: only the active version is searched, exactly or by a reranked shortlist."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reelnest.engines.engine import ENGINES, Engine, Item, Manifest, open_engine
from reelnest.engines.folder import FolderEngine
from reelnest.errors import ConfigError, DataError, QueryError
from reelnest.records.formats import Video
from reelnest.records.segments import Segment
from reelnest.search.filters import parse_filter

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(50, 16)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


def manifest(videos: int, graph_dim: int | None = None) -> Manifest:
    return Manifest(
        format_version=1,
        model="model",
        model_hash="0123",
        base="tiny",
        dims=(4, 16),
        data="../data",
        data_hash="4567",
        storage="float32",
        graph_dim=graph_dim,
        videos=videos,
        skipped=0,
    )


def items(numbers: range) -> list[Item]:
    return [Item(Video(f"v{number:02}", f"{number}.mp4", (), {}, number + 1), f"key {number}", VECTORS[number]) for number in numbers]


def write(engine: Engine, version: str, count: int, graph_dim: int | None = None) -> None:
    engine.create(version, manifest(count, graph_dim), [])
    for start in range(0, count, 20):
        engine.upsert(version, items(range(start, min(start + 20, count))))
    engine.build(version)


def test_a_version_is_searched_only_when_it_is_active(engine: Engine) -> None:
    write(engine, "aa", 30)
    with pytest.raises(DataError, match="there is no index"):
        _ = engine.manifest
    engine.activate("aa")
    assert engine.manifest.videos == 30
    write(engine, "bb", 50)
    assert engine.manifest.videos == 30
    engine.activate("bb")
    assert engine.manifest.videos == 50


def test_a_dropped_version_and_those_of_killed_runs_leave_nothing_in_a_folder(tmp_path: Path) -> None:
    engine, first, second = open_engine(str(tmp_path / "index")), 16 * "a", 16 * "b"
    write(engine, first, 30)
    engine.drop(first)
    assert not list(tmp_path.iterdir())
    write(engine, first, 30)
    write(engine, second, 30)
    assert [path.name for path in tmp_path.iterdir()] == [f".index.{second}"]
    engine.drop("never")


def test_folders_with_similar_names_are_not_removed(tmp_path: Path) -> None:
    others = {".index.backup", f".index.v2.{16 * 'a'}"}  # a copy by hand, and another index that is being written
    for name in others:
        (tmp_path / name).mkdir()
    engine = open_engine(str(tmp_path / "index"))
    write(engine, "aa", 30)
    engine.activate("aa")
    assert {path.name for path in tmp_path.iterdir()} == {"index", *others}


@pytest.mark.parametrize("dim", [4, 16])
def test_an_exact_search_equals_numpy(engine: Engine, dim: int) -> None:
    write(engine, "aa", 50)
    engine.activate("aa")
    prefixes = VECTORS[:, :dim] / np.linalg.norm(VECTORS[:, :dim], axis=1, keepdims=True)
    query = 3 * VECTORS[7]  # cosines do not depend on its norm
    expected = prefixes @ (query[:dim] / np.linalg.norm(query[:dim]))
    hits = engine.search(query, 5, dim=dim)
    np.testing.assert_allclose(hits.scores, np.sort(expected)[::-1][:5], atol=1e-6)
    assert hits.ids == [f"v{number:02}" for number in np.argsort(-expected)[:5]]
    assert hits.dims == (dim,)


def test_a_folder_searches_more_dims_than_it_keeps_norms_of(tmp_path: Path) -> None:
    engine = open_engine(str(tmp_path / "index"))
    write(engine, "aa", 50)
    engine.activate("aa")
    few = parse_filter("video_id >= 'v40'", {})
    for dim in [*range(1, 17)] * 2:
        prefixes = VECTORS[:, :dim] / np.linalg.norm(VECTORS[:, :dim], axis=1, keepdims=True)
        scores = prefixes @ prefixes[7]
        np.testing.assert_allclose(engine.search(VECTORS[7], 5, dim=dim).scores, np.sort(scores)[::-1][:5], atol=1e-6)
        np.testing.assert_allclose(engine.search(VECTORS[7], 5, dim=dim, condition=few).scores, np.sort(scores[40:])[::-1][:5], atol=1e-6)
    engine.close()


def test_a_dim_between_the_stored_ones_is_searched_or_named_with_those_that_are(engine: Engine, location: str) -> None:
    write(engine, "aa", 50)
    engine.activate("aa")
    if "qdrant" in location or "milvus" in location:
        with pytest.raises(QueryError, match="stores the dims 4, 16"):
            engine.search(VECTORS[7], 5, dim=7)
    else:
        assert engine.search(VECTORS[7], 1, dim=7).ids == ["v07"]


@pytest.mark.parametrize("graph_dim", [None, 4])
def test_the_full_width_reranks_a_shortlist(engine: Engine, graph_dim: int | None) -> None:
    write(engine, "aa", 50, graph_dim)
    engine.activate("aa")
    query = VECTORS[7]
    prefixes = VECTORS[:, :4] / np.linalg.norm(VECTORS[:, :4], axis=1, keepdims=True)
    shortlist = np.argsort(-(prefixes @ query[:4]))[:10]
    expected = sorted(shortlist, key=lambda row: -(VECTORS[row] @ query))[:5]
    hits = engine.search(query, 5, dim=4, shortlist=10)
    assert hits.ids == [f"v{number:02}" for number in expected]
    assert hits.dims == (4, 16)


def test_searches_that_share_a_pass_over_a_folder_do_not_change_each_other(tmp_path: Path) -> None:
    engine = open_engine(str(tmp_path / "index"))
    write(engine, "aa", 50)
    engine.activate("aa")
    few = parse_filter("video_id in ['v03', 'v07', 'v11', 'v30']", {})
    forms: list[dict[str, Any]] = [{"dim": 16}, {"dim": 4}, {"dim": 4, "shortlist": 10}, {"dim": 16, "condition": few}]
    asked = [(VECTORS[number], k, form) for number in range(25) for k in (1, 7) for form in forms]
    expected = [engine.search(query, k, **form) for query, k, form in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(lambda one: engine.search(one[0], one[1], **one[2]), asked))
    assert [(hits.ids, hits.dims) for hits in found] == [(hits.ids, hits.dims) for hits in expected]
    for hits, alone in zip(found, expected, strict=True):
        np.testing.assert_allclose(hits.scores, alone.scores, atol=1e-6)
    engine.close()


def test_segments_come_back_with_their_times(engine: Engine) -> None:
    segments = (Segment(0.5, 12.25), Segment(3.0, None), None)
    videos = [Video(f"film{number}", "film.mp4", (), {}, 1, segment=segment) for number, segment in enumerate(segments)]
    engine.create("aa", manifest(3), [])
    engine.upsert("aa", [Item(video, video.video_id, VECTORS[number]) for number, video in enumerate(videos)])
    engine.build("aa")
    engine.activate("aa")
    assert engine.get([video.video_id for video in videos]) == videos


def test_videos_and_vectors_come_back_by_id_and_by_key(engine: Engine) -> None:
    write(engine, "aa", 50)
    engine.activate("aa")
    assert [video.path for video in engine.get(["v30", "v02"])] == ["30.mp4", "2.mp4"]
    assert engine.get([]) == []
    with pytest.raises(QueryError, match="no video of this id"):
        engine.get(["v02", "v99"])
    stored = engine.vectors(["key 3", "key 99"])
    assert set(stored) == {"key 3"}
    np.testing.assert_allclose(stored["key 3"], VECTORS[3], atol=1e-7)


def test_an_engine_of_another_package_is_opened_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ENGINES, "_by_name", dict(ENGINES._by_name))

    @ENGINES.register("toy")
    class Toy(FolderEngine):
        pass

    assert isinstance(ENGINES["toy"](str(tmp_path / "index")), Toy)
    with pytest.raises(ConfigError, match=r"unknown search engine 'none'; known: folder, milvus.*, postgresql, qdrant.*, toy"):
        ENGINES["none"]
