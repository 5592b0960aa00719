"""Profiled steps: the trace and the time of each phase."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from reelnest.profiling.phases import PHASES
from tests.integration.training.training_workspace import run, training_report, write_workspace


@pytest.fixture(scope="module")
def profiled(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_workspace(
        tmp_path_factory.mktemp("profiled") / "checkout", prepared, epochs=2, profile_steps=[2, 4], trackers=["mlflow", "tensorboard"]
    )
    run(root)
    return root


def breakdown(root: Path) -> dict[str, Any]:
    breakdown_entry: dict[str, Any] = json.loads((root / "reports" / "training.json").read_text())["speed"]["breakdown"]
    return breakdown_entry


def test_the_report_has_the_time_of_each_phase_of_a_step(profiled: Path) -> None:
    phases = breakdown(profiled)
    assert phases["steps"] == [2, 4]
    assert set(phases["seconds"]) == set(phases["share"]) == set(PHASES)
    assert sum(phases["share"].values()) == pytest.approx(1, abs=0.001)
    assert all(phases["seconds"][name] > 0 for name in ("data", "vision", "language", "loss", "optimizer"))
    # The model does most of the work, whatever the machine.
    assert phases["share"]["vision"] + phases["share"]["language"] > phases["share"]["loss"] + phases["share"]["data"]


def test_the_trace_shows_the_phases_and_is_where_tensorboard_and_mlflow_look(profiled: Path) -> None:
    [trace] = profiled.glob("work/tensorboard/*/*.pt.trace.json.gz")
    with gzip.open(trace) as file:
        events = json.load(file)["traceEvents"]
    ranges: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event.get("name", "").startswith("reelnest: ") and event.get("cat") == "user_annotation":
            ranges.setdefault(event["name"].removeprefix("reelnest: "), []).append(event)
    assert {"data", "vision", "language", "loss", "optimizer"} <= set(ranges)
    assert len(ranges["optimizer"]) == 3
    # The trace has the same times, in microseconds.
    seconds = sum(event["dur"] for event in ranges["optimizer"]) / 1e6 / 3
    assert seconds == pytest.approx(breakdown(profiled)["seconds"]["optimizer"], rel=0.2)
    client = MlflowClient(f"sqlite:///{profiled}/mlflow.db")
    [run] = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert [file.path for file in client.list_artifacts(run.info.run_id, "profile")] == [f"profile/{trace.name}"]


def test_profiling_changes_nothing_that_is_trained(profiled: Path, prepared: Path, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "checkout", prepared, epochs=2)
    run(root)
    assert breakdown(root) is None
    assert training_report(root) == training_report(profiled)
    assert (root / "reports" / "training.csv").read_text() == (profiled / "reports" / "training.csv").read_text()


def test_steps_that_run_into_the_next_epoch_are_profiled_up_to_the_end_of_theirs(prepared: Path, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "checkout", prepared, epochs=1, profile_steps=[4, 400])
    run(root)
    last: Any = training_report(root)["steps"]
    assert breakdown(root)["steps"] == [4, last]
