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
    """Resets accelerate, which reuses the precision and device of a process's first training for later ones."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
