"""Runs of a deployment whose preprocessing, trainings and evaluations are SLURM jobs on simulated nodes, cancelled and killed."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient

from reelnest.commands.runs import saved_runs
from tests.end_to_end.faults import Scene, cancel_by_page, kill_flow, kill_worker
from tests.end_to_end.supervised_services import Services, supervised_services, wait_until
from tests.support.running_services import ended, start
from tests.support.simulated_slurm import Cluster, require_slurm, simulated_cluster
from tests.support.small_project import change, make_quick_project, run_on_two_nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

DEPLOYMENT = "reelnest-train/by-hand"
GONE_SECONDS = 60
TRAIN_SECONDS = 600


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
    assert os.environ["SLURM_CONF"] == cluster.environment["SLURM_CONF"]
    folder = tmp_path_factory.mktemp("cluster") / "project"
    make_quick_project(folder)
    change(folder, train={"epochs": 12, "checkpoint_every_minutes": 0.02})
    run_on_two_nodes(folder, preprocess={"cpus_per_task": 2})
    return folder


@pytest.fixture(scope="module")
def services(project: Path) -> Iterator[tuple[Services, SyncPrefectClient]]:
    with supervised_services(project) as running:
        yield running


@pytest.mark.parametrize(
    ("strike", "states"),
    [
        pytest.param(cancel_by_page, {"Cancelled"}, id="cancelled in Prefect"),
        pytest.param(kill_flow, {"Crashed"}, id="flow killed"),
        pytest.param(kill_worker, {"Running", "Crashed"}, id="worker killed", marks=pytest.mark.series),
    ],
)
def test_a_run_that_ends_during_its_training_leaves_no_job_and_no_process(
    strike: Callable[[Scene], None], states: set[str], services: tuple[Services, SyncPrefectClient], cluster: Cluster
) -> None:
    running, api = services
    scene = Scene(running, api, "train", random.Random(0), cluster=cluster)
    scene.run = api.read_flow_run(start(api, DEPLOYMENT))

    def is_training() -> bool:
        state = api.read_flow_run(scene.flow_run).state  # type: ignore[arg-type]  # the run has begun
        assert state is not None
        assert not state.is_final(), state
        # A job that resumes has a checkpoint before it trains.
        saved = list(running.project.glob("work/checkpoints/*/step-*.pt"))
        return bool(saved) and (scene.worktree / "work/progress.json").exists()

    wait_until(is_training, "a training that has saved", TRAIN_SECONDS)
    assert len(cluster.jobs()) == 1
    assert cluster.processes()
    strike(scene)
    wait_until(lambda: cluster.is_idle() and not scene.processes(), "the end of the job and of all processes", GONE_SECONDS)
    if "Running" not in states:  # without its worker, a run is marked as crashed after minutes
        ended(api, [scene.run.id])
    state = api.read_flow_run(scene.run.id).state_name
    assert state in states
    assert not saved_runs(running.project)


def test_the_next_run_resumes_and_completes_and_its_jobs_end(services: tuple[Services, SyncPrefectClient], cluster: Cluster) -> None:
    running, api = services
    jobs = {job for job, _, _ in cluster.jobs("all")}
    (flow,) = ended(api, [start(api, DEPLOYMENT)])
    assert flow.state_name == "Completed", flow.state
    (saved,) = saved_runs(running.project)
    assert saved.done.startswith("validate restored, preprocess restored, train ran, evaluate ran")
    assert "training: resuming after step" in running.log.read_text()
    assert cluster.is_idle()
    made = {job: (state, name.rpartition("-")[0]) for job, state, name in cluster.jobs("all") if job not in jobs}
    assert sorted(made.values()) == [("COMPLETED", "reelnest-evaluate"), ("COMPLETED", "reelnest-train")]
    assert saved.metrics
