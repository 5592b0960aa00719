"""A sweep with a real server, worker and stages: its trials are runs of their own, and the best one alone is registered."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelling

from reelnest.commands.runs import saved_runs
from reelnest.registry.sweeps import BEST_TAG, SWEEP_TAG
from tests.support.running_services import RUN_SECONDS, ended, start
from tests.support.small_project import make_quick_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
SWEEP = "reelnest-sweep/sweep"
ASKED: dict[str, Any] = {"space": {"train.learning_rate": {"low": 0.001, "high": 0.02, "log": True}}, "trials": 3, "at_once": 2}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "project"
    make_quick_project(folder)
    return folder


def trial_runs(api: SyncPrefectClient) -> list[FlowRun]:
    return api.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=["sweep"])))


@pytest.fixture(scope="module")
def sweep(api: SyncPrefectClient) -> FlowRun:
    (found,) = ended(api, [start(api, SWEEP, **ASKED)])
    return found


def test_trials_are_runs_of_their_own_and_the_best_alone_is_registered(sweep: FlowRun, api: SyncPrefectClient, project: Path) -> None:
    assert sweep.state is not None
    assert sweep.state.is_completed(), sweep.state.message
    assert "best of 3: trial " in str(sweep.state.message)
    assert "; version 1, " in str(sweep.state.message)
    kept = saved_runs(project)
    assert len(kept) == 4
    (best,) = [run for run in kept if run.registration]
    trials = [run for run in kept if not run.registration]
    assert best.done == "validate unchanged, preprocess unchanged, train unchanged, evaluate unchanged, register ran"
    assert best.validation["recall@10"] == max(run.validation["recall@10"] for run in trials)
    assert best.settings in [run.settings for run in trials]
    assert sum("preprocess ran" in run.done for run in kept) == 1


def test_mlflow_has_the_trials_below_the_sweep_and_the_best_is_marked(sweep: FlowRun, project: Path) -> None:
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiments = [found.experiment_id for found in client.search_experiments()]
    (parent,) = [run for run in client.search_runs(experiments) if SWEEP_TAG in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert json.loads(parent.data.params["space"]) == ASKED["space"]
    trainings = client.search_runs(experiments, f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.info.run_id}'")
    assert len(trainings) == 3
    (marked,) = [run for run in trainings if run.data.tags.get(BEST_TAG) == parent.info.run_id]
    (best,) = [run for run in saved_runs(project) if run.registration]
    assert marked.info.run_id == best.mlflow_run


def test_the_trials_are_a_table_among_the_artifacts(sweep: FlowRun, api: SyncPrefectClient) -> None:
    found = api.read_latest_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["sweep"])))
    rows = json.loads(str(found[0].data))
    assert sorted(row["state"] for row in rows) == ["best", "completed", "completed"]
    assert all(row["run"] and row["recall@10"] != "" and row["train.learning_rate"] for row in rows)


def test_a_sweep_started_again_trains_nothing_and_registers_nothing_new(sweep: FlowRun, api: SyncPrefectClient, project: Path) -> None:
    before = len(trial_runs(api))
    (again,) = ended(api, [start(api, SWEEP, **ASKED)])
    assert again.state is not None
    assert "; version 1, " in str(again.state.message)
    assert len(trial_runs(api)) == before + 1
    assert " ran" not in saved_runs(project)[0].done


def test_a_key_that_is_not_there_is_refused_before_anything_starts(sweep: FlowRun, api: SyncPrefectClient) -> None:
    before = len(api.read_flow_runs())
    with pytest.raises(PrefectHTTPStatusError, match=r"'train\.lerning_rate' is not one of .*'train\.learning_rate'") as refused:
        start(api, SWEEP, space={"train.lerning_rate": [1]})
    assert refused.value.response.status_code == 409
    assert len(api.read_flow_runs()) == before


def test_a_cancelled_sweep_cancels_its_trials(sweep: FlowRun, api: SyncPrefectClient, project: Path) -> None:
    before = {run.id for run in trial_runs(api)}
    sweeping = start(api, SWEEP, **ASKED, seed=1)
    deadline = time.monotonic() + RUN_SECONDS
    while not any(run.state is not None and run.state.is_running() for run in trial_runs(api) if run.id not in before):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    api.set_flow_run_state(sweeping, Cancelling())
    (cancelled,) = ended(api, [sweeping])
    assert cancelled.state_name == "Cancelled"
    begun = [run.id for run in trial_runs(api) if run.id not in before]
    assert {run.state_name for run in ended(api, begun)} == {"Cancelled"}
    assert not list((project / "work" / "runs").glob("*/.git"))
