"""A sweep in a real MLflow store: its run is found by key, it is the parent of its trainings, and the best is tagged."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from reelnest.registry.lineage.run_tags import parent_tags
from reelnest.registry.sweeps import BEST_TAG, SweepRun
from reelnest.registry.tracking import open_trackers
from reelnest.settings import Params, Tracking, Train


@pytest.fixture
def params(empty_store: Path, tmp_path: Path) -> Params:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Params(tracking=Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db"), train=Train(trackers=("mlflow",)))


def training(params: Params, work: Path, key: str) -> str:
    trackers = open_trackers(params, work, key, {}, parent_tags())
    trackers.close("FINISHED")
    return trackers.runs["mlflow"]


def test_trainings_are_children_of_their_sweep_and_only_the_best_is_tagged(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    by_itself = training(params, tmp_path, "k0")
    sweep = SweepRun.open(params, "c0ffee", {"seed": 0})
    monkeypatch.setenv("REELNEST_PARENT_RUN", sweep.id)
    first, second = training(params, tmp_path, "k1"), training(params, tmp_path, "k2")
    client = MlflowClient(params.tracking.uri)
    below = client.search_runs([sweep.experiment], f"tags.`mlflow.parentRunId` = '{sweep.id}'")
    assert {run.info.run_id for run in below} == {first, second}
    assert "mlflow.parentRunId" not in client.get_run(by_itself).data.tags

    sweep.show([{"number": 0, "value": 0.5}], first)
    sweep.show([{"number": 0, "value": 0.5}, {"number": 1, "value": 0.7}], second)
    marked = client.search_runs([sweep.experiment], f"tags.`{BEST_TAG}` = '{sweep.id}'")
    assert [run.info.run_id for run in marked] == [second]
    sweep.close("KILLED")

    again = SweepRun.open(params, "c0ffee", {"seed": 0})
    assert again.id == sweep.id
    assert client.get_run(again.id).info.status == "RUNNING"
    assert SweepRun.open(params, "decade", {"seed": 1}).id != sweep.id
