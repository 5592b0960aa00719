"""A change of versions while an index is searched and read, in every engine whose searches follow to a new version."""

import threading

import numpy as np
import pytest

from reelnest.engines.engine import Engine, Item, Manifest, open_engine
from reelnest.errors import DataError
from reelnest.records.formats import Video

WIDTH = 32
DISTINCT = np.random.default_rng(1).normal(size=(400, WIDTH)).astype(np.float32)
DISTINCT /= np.linalg.norm(DISTINCT, axis=1, keepdims=True)
VECTORS = np.concatenate([DISTINCT, DISTINCT[:100]])
"""The last hundred are ties."""


def manifest(**changes: object) -> Manifest:
    values = {
        "format_version": 1, "model": "m", "model_hash": "0123", "base": "tiny", "dims": (8, WIDTH), "data": "data", "data_hash": "4567",
        "storage": "float32", "graph_dim": None, "videos": len(VECTORS), "skipped": 0,
    }  # fmt: skip
    return Manifest.model_validate(values | changes)


def write(engine: Engine, version: str, described: Manifest, prefix: str = "v") -> None:
    engine.create(version, described, [])
    engine.upsert(
        version,
        [
            Item(Video(f"{prefix}{row:03}", f"{row}.mp4", (), {"title": "it's"}, row + 1), str(row), vector.astype(described.storage))
            for row, vector in enumerate(VECTORS)
        ],
    )
    engine.build(version)
    engine.activate(version)


FOLLOWING = pytest.mark.parametrize("location", ["postgresql", "qdrant-edge", "qdrant", "milvus-lite"], indirect=True)
"""A folder's index that is opened does not change."""
CONCURRENT = pytest.mark.parametrize("location", ["postgresql", "qdrant-edge", "milvus-lite"], indirect=True)
"""The local mode of Qdrant's client cannot be read while it is written."""


@CONCURRENT
def test_no_search_fails_or_mixes_versions_while_the_index_is_made_anew(engine: Engine, location: str) -> None:
    write(engine, "aa", manifest(), "a")
    searcher, faults, searches, done = open_engine(location), [], [0], threading.Event()

    def search() -> None:
        while not done.is_set():
            try:
                ids = searcher.search(VECTORS[3], 10, dim=WIDTH).ids
                found = [video.video_id for video in searcher.get(ids)]
                if found != list(ids) or len({video_id[0] for video_id in ids}) != 1:
                    faults.append(str(ids))
            except Exception as error:  # noqa: BLE001 (any is a fault)
                faults.append(repr(error))
            searches[0] += 1

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(3):
        write(engine, f"b{number}", manifest(), "bcd"[number])
    done.set()
    for thread in threads:
        thread.join()
    assert searcher.search(VECTORS[3], 1, dim=WIDTH).ids == ["d003"]
    searcher.close()
    assert not faults
    assert searches[0] > 20


@FOLLOWING
def test_a_server_that_only_sends_clips_follows_two_versions(engine: Engine, location: str) -> None:
    write(engine, "aa", manifest())
    opened = open_engine(location)
    assert opened.manifest.videos == len(VECTORS)
    for version in ("bb", "cc"):  # the opened version is gone after the second
        write(engine, version, manifest())
    assert [video.path for video in opened.get(["v300", "v002"])] == ["300.mp4", "2.mp4"]
    opened.close()


@FOLLOWING
def test_an_index_of_another_model_is_not_followed(engine: Engine, location: str) -> None:
    write(engine, "aa", manifest(), "a")
    opened = open_engine(location)
    assert opened.manifest.model_hash == "0123"
    write(engine, "bb", manifest(model_hash="9999"), "b")
    assert opened.search(VECTORS[3], 1, dim=WIDTH).ids == ["a003"]
    write(engine, "cc", manifest(model_hash="9999"), "c")
    with pytest.raises(DataError, match="made again with another model"):
        opened.search(VECTORS[3], 1, dim=WIDTH)
    opened.close()


@FOLLOWING
def test_vectors_are_read_in_blocks_in_any_order(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reelnest.engines.stored.BLOCK_VECTORS", 7)
    write(engine, "aa", manifest(storage="float16" if "float16" in engine.storages else "float32"))
    stored = engine.vectors([*map(str, range(0, 500, 3)), "none"])
    assert list(stored) == [str(row) for row in range(0, 500, 3)]
    assert "none" not in stored
    for row in (300, 0, 3, 6, 21, 498, 297):
        np.testing.assert_allclose(stored[str(row)].astype(np.float32), VECTORS[row], atol=1e-3)
