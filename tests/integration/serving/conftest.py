"""Indexes of one corpus by two models."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def server(served: Served) -> Iterator[str]:
    """The address of a server over both indexes."""
    program = str(Path(sys.executable).with_name("reelnest"))
    command = [program, "serve", "--port", "0", "--index", "one", "--index", "two"]
    with subprocess.Popen(command, cwd=served.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split(" ")[0]
        assert address.startswith("http://127.0.0.1:"), process.communicate()
        yield address
        os.kill(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
