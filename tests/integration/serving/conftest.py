"""Indexes of one corpus by two models."""

import shutil
from pathlib import Path

import pytest

from tests.integration.serving.served_corpus import ROOT, Served, write_corpus, write_models


@pytest.fixture(scope="session")
def served(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    corpus = Served(tmp_path_factory.mktemp("served"))
    write_corpus(corpus.data)
    (corpus.root / "configs").symlink_to(ROOT / "configs")
    shutil.copy(ROOT / "params.yaml", corpus.root)
    write_models(corpus.root / "models", tiny_base)
    for name in ("one", "two"):
        corpus.index(name, name)
    return corpus


@pytest.fixture
def copy(served: Served, tmp_path: Path) -> Served:
    """A copy that a test may change."""
    shutil.copytree(served.root, tmp_path / "served", symlinks=True)
    return Served(tmp_path / "served")
