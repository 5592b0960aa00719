"""Simulated clusters, data to train on, and a training that nothing disturbs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.launch.cluster_training import LONG, run_locally, write_checkout
from tests.integration.training.training_workspace import write_prepared
from tests.support import simulated_kubernetes as kubernetes_cluster
from tests.support import simulated_slurm as slurm_cluster


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small `prepared/` folder."""
    folder = tmp_path_factory.mktemp("prepared")
    write_prepared(folder / "prepared", folder / "scratch")
    return folder / "prepared"


@pytest.fixture(scope="session")
def unbroken(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The long training, on this machine."""
    root = write_checkout(tmp_path_factory.mktemp("unbroken") / "checkout", prepared, nodes=1, processes=2, backend="local", **LONG)
    run_locally(root)
    return root


@pytest.fixture
def slurm() -> Iterator[slurm_cluster.Cluster]:
    """Four idle nodes."""
    slurm_cluster.require_slurm()
    with slurm_cluster.simulated_cluster() as running:
        yield running


@pytest.fixture
def kubernetes() -> Iterator[kubernetes_cluster.Cluster]:
    """Four idle nodes."""
    with kubernetes_cluster.simulated_cluster() as running:
        yield running
