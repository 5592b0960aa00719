"""Runs of a deployment whose preprocessing, trainings and evaluations are SLURM jobs on simulated nodes."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Cancelling

from reelnest.commands.runs import saved_runs
from tests.support.running_services import ended, start
from tests.support.simulated_slurm import Cluster, require_slurm, simulated_cluster
from tests.support.small_project import COMMIT, change, make_quick_project, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

DEPLOYMENT = "reelnest-train/nightly"
GONE_SECONDS = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    require_slurm()
    with simulated_cluster() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(scope="module")
def project(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose launches are jobs on two nodes."""
    folder = tmp_path_factory.mktemp("cluster") / "project"
    make_quick_project(folder)
    shapes = folder / "configs" / "accelerate"
    shape = yaml.safe_load((shapes / "cpu-2.yaml").read_text())
    shape |= {"num_machines": 2, "num_processes": 2, "same_network": True, "rdzv_backend": "static"}
    (shapes / "two-nodes.yaml").write_text(yaml.safe_dump(shape))
    change(folder, train={"epochs": 12, "checkpoint_every_minutes": 0.02})
    resources = {"preprocess": {"cpus_per_task": 2}}
    change(folder, launch={"backend": "slurm", "config": "two-nodes", "slurm": {"poll_seconds": 1.0}, "resources": resources})
    run(["git", "add", "."], folder)
    run([*COMMIT, "-m", "A cluster"], folder)
    return folder


def test_a_cancel_in_prefect_reaches_the_last_process_of_a_job(api: SyncPrefectClient, project: Path, cluster: Cluster) -> None:
    flow_run = start(api, DEPLOYMENT)
    deadline = time.monotonic() + 600
    while not list(project.glob("work/checkpoints/*/step-*.pt")):
        state = api.read_flow_run(flow_run).state
        assert state is not None
        assert not state.is_final(), state
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert len(cluster.jobs()) == 1
    assert cluster.processes()
    api.set_flow_run_state(flow_run, Cancelling())
    cancelled = time.monotonic()
    while cluster.jobs() or cluster.processes():
        assert time.monotonic() < cancelled + GONE_SECONDS, (cluster.jobs(), cluster.processes())
        time.sleep(0.5)
    assert [flow.state_name for flow in ended(api, [flow_run])] == ["Cancelled"]
    assert not saved_runs(project)


def test_the_next_run_resumes_and_completes_and_its_jobs_end(api: SyncPrefectClient, project: Path, cluster: Cluster) -> None:
    (flow,) = ended(api, [start(api, DEPLOYMENT)])
    assert flow.state_name == "Completed", flow.state
    (saved,) = saved_runs(project)
    assert "train ran" in saved.done
    assert not cluster.jobs()
    assert not cluster.processes()
    finished = sorted(name.rpartition("-")[0] for _, state, name in cluster.jobs("all") if state == "COMPLETED")
    assert finished == ["reelnest-evaluate", "reelnest-preprocess", "reelnest-train"]
    assert saved.metrics
