"""The engines that the same tests run over."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reelnest.engines.engine import Engine, open_engine

ENGINE_NAMES = ("folder", "postgresql", "qdrant-edge", "qdrant", "milvus-lite")


@pytest.fixture(params=ENGINE_NAMES)
def location(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A location without an index."""
    match request.param:
        case "postgresql":
            return request.getfixturevalue("database_address")
        case "qdrant-edge":
            return f"qdrant-edge://{tmp_path / 'index'}"
        case "milvus-lite":
            return f"milvus-lite://{tmp_path / 'index.db'}"
        case "qdrant":
            return request.getfixturevalue("local_qdrant")
    return str(tmp_path / "index")


@pytest.fixture
def local_qdrant(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address whose server is the local mode of Qdrant's client: the same requests, answered by numpy in this process."""
    from qdrant_client import QdrantClient

    from reelnest.engines import qdrant

    client = QdrantClient(":memory:")
    monkeypatch.setattr(client, "close", lambda: None)  # several engines share it
    monkeypatch.setattr(qdrant, "connect", lambda _address: client)
    return "qdrant+http://qdrant.test:6333#videos"


@pytest.fixture
def engine(location: str) -> Iterator[Engine]:
    opened = open_engine(location)
    yield opened
    opened.close()
