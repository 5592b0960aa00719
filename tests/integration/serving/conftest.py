"""Indexes of one corpus by two models."""

import shutil
from pathlib import Path

import pytest

from tests.integration.serving.served_corpus import ROOT, Served, write_corpus, write_models


@pytest.fixture(scope="session")
def served(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    found = Served(tmp_path_factory.mktemp("served"))
    write_corpus(found.data)
    (found.root / "configs").symlink_to(ROOT / "configs")
    shutil.copy(ROOT / "params.yaml", found.root)
    write_models(found.root / "models", tiny_base)
    for name in ("one", "two"):
        found.index(name, name)
    return found


@pytest.fixture
def copy(served: Served, tmp_path: Path) -> Served:
    """One of a test's own, to change."""
    shutil.copytree(served.root, tmp_path / "served", symlinks=True)
    return Served(tmp_path / "served")
