"""Fixtures of the training tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from tests.integration.training.training_workspace import write_prepared


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small `prepared/` folder."""
    folder = tmp_path_factory.mktemp("prepared")
    write_prepared(folder / "prepared", folder / "scratch")
    return folder / "prepared"


@pytest.fixture(autouse=True)
def _accelerate_starts_anew() -> Iterator[None]:
    """accelerate keeps the precision, and whether it runs on the CPU, of a process's first training for all later ones."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
