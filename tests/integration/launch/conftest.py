"""A simulated SLURM cluster, and data to train on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.training.training_workspace import write_prepared
from tests.support.simulated_slurm import Cluster, require_slurm, simulated_cluster


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small `prepared/` folder."""
    folder = tmp_path_factory.mktemp("prepared")
    write_prepared(folder / "prepared", folder / "scratch")
    return folder / "prepared"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Four idle nodes."""
    require_slurm()
    with simulated_cluster() as running:
        yield running
