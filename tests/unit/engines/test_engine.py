"""Engines whose package is missing, vectors that cannot be ranked, and manifests that cannot be read."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reelnest.engines.engine import Item, Manifest, check_engine, check_vectors, open_engine, write_version
from reelnest.engines.stored import FORMAT_VERSION, manifest_of
from reelnest.errors import ConfigError, DataError, ModelError, NoIndex
from reelnest.records.formats import Video


@pytest.mark.parametrize(
    ("location", "module", "extra"),
    [
        ("postgresql://db.example/search#clips", "psycopg_pool", "pgvector"),
        ("qdrant+http://qdrant.example#clips", "qdrant_client.models", "qdrant"),
        ("qdrant-edge://clips", "qdrant_edge", "qdrant"),
        ("milvus-lite://clips.db", "pymilvus", "milvus"),
    ],
)
def test_an_engine_without_its_package_says_which_extra_to_install(
    location: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{re.escape(location)}: .*{module.split('.')[0]} is not installed.*reelnest\[{extra}\]"):
        open_engine(location)


def test_a_database_that_cannot_be_reached_is_named_without_its_password() -> None:
    pytest.importorskip("psycopg_pool")
    with pytest.raises(DataError, match=r"^postgresql://127.0.0.1:1/db#clips: connection failed.*refused. Check the address, the password"):
        check_engine("postgresql://me:secret@127.0.0.1:1/db#clips")


@pytest.mark.parametrize("name", ["data", "data/notes.txt"])
def test_an_index_replaces_no_other_files(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/notes.txt").touch()
    manifest = Manifest(
        **{"format_version": FORMAT_VERSION, "model": "m", "model_hash": "0", "base": "tiny", "dims": (2,), "data": "d", "data_hash": "0"},
        **{"storage": "float32", "graph_dim": None, "videos": 1, "skipped": 0},
    )
    item = Item(Video("clip", "a.mp4", (), {}, 1), "key", np.array([0.6, 0.8], np.float32))
    with pytest.raises(ConfigError, match=rf"{name} exists and is not an index, so nothing was written."):
        write_version(open_engine(str(tmp_path / name)), manifest, [item])
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "notes.txt"]


@pytest.mark.parametrize("vector", [[0.6, np.nan], [np.inf, 0.8], [0.0, 0.0], [1.0], [[0.6, 0.8]]])
def test_a_vector_that_cannot_be_ranked_is_named_by_its_video(vector: Any) -> None:
    vectors = [np.array([0.6, 0.8], np.float16), np.array(vector, np.float16)]
    items = [Item(Video(f"clip{row}", "a.mp4", (), {}, row + 1), str(row), each) for row, each in enumerate(vectors)]
    check_vectors(items[:1], 2)
    with pytest.raises(ModelError, match="vector of video clip1"):
        check_vectors(items, 2)


@pytest.mark.parametrize("stored", [None, {"format_version": FORMAT_VERSION + 1}, {"format_version": FORMAT_VERSION, "dims": [8]}])
def test_a_manifest_that_cannot_be_read_asks_for_a_new_index(stored: Any) -> None:
    with pytest.raises(NoIndex, match=r"(?s)db\.example.*reelnest index"):
        manifest_of(stored, "db.example")
