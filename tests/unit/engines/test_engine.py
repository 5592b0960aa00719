"""Engines whose package is missing, vectors that cannot be ranked, and manifests that cannot be read."""

import re
import sys
from typing import Any

import numpy as np
import pytest

from reelnest.engines.engine import Item, check_vectors, open_engine
from reelnest.engines.stored import FORMAT_VERSION, manifest_of
from reelnest.errors import ConfigError, ModelError, NoIndex
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
