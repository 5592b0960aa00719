"""Indexes of one corpus by two models."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@pytest.fixture(scope="package")
def server(served: Served) -> Iterator[str]:
    """The address of a server over both indexes."""
    with serving(served, "--index", "one", "--index", "two") as address:
        yield address


@contextmanager
def serving(served: Served, *options: str, **variables: str) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [str(Path(sys.executable).with_name("reelnest")), "serve", "--port", "0", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=served.root, text=True, env=os.environ | variables, **pipes) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split(" ")[0]
        assert address.startswith("http://127.0.0.1:"), process.communicate()
        try:
            yield address
        finally:
            os.kill(process.pid, signal.SIGTERM)
            process.wait(timeout=30)
