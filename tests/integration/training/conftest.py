"""Fixtures of the training tests."""

from pathlib import Path

import pytest
import torch
from training_workspace import write_prepared


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small `prepared/` folder."""
    folder = tmp_path_factory.mktemp("prepared")
    write_prepared(folder / "prepared", folder / "scratch")
    return folder / "prepared"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Matrices this small are slower with two threads, and much slower where other tests run beside."""
    torch.set_num_threads(1)
