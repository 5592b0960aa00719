"""The flow against a real Prefect server and a real DVC: what runs, what is shown, what is tried again."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import LogSort
from prefect.events.worker import EventsWorker
from prefect.variables import Variable

from flows.pipeline import train_pipeline
from tasks import stages
from tasks.pages.markdown import escape
from tasks.process.locks import waiting_lock
from tasks.services import notifications

pytestmark = pytest.mark.usefixtures("prefect_server")
ALL = ("validate", "preprocess", "train", "evaluate", "register")


@pytest.fixture(autouse=True)
def _stand_in_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "REGISTER", (sys.executable, "stand_in_stage.py", "register"))
    for task in (stages.validate, stages.preprocess, stages.train, stages.evaluate, stages.register):
        monkeypatch.setattr(task, "retry_delay_seconds", 0.1)


def run_flow() -> State[Any]:
    return train_pipeline(return_state=True)


def outcomes(state: State[Any]) -> dict[str, str]:
    assert state.is_completed(), state.message
    return dict(part.split(" ") for part in str(state.message).split(", "))


def artifacts(state: State[Any]) -> dict[str, Any]:
    run_id = state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id])),
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])),
        )
    return {str(artifact.key): artifact.data for artifact in found}


def dvc_repro() -> str:
    return subprocess.run([sys.executable, "-m", "dvc", "repro"], check=True, capture_output=True, text=True).stdout


def test_the_flow_runs_all_stages_shows_what_they_made_notifies_once_and_then_finds_nothing_to_do(project: Path) -> None:
    Variable.unset(notifications.CHAMPION_NOTIFIED)
    first = run_flow()
    assert outcomes(first) == dict.fromkeys(ALL, "ran")
    shown = artifacts(first)
    assert set(shown) == {*ALL, "quarantine", "data-docs", "lineage", "training-progress", "mlflow-run", "evaluation-page"}
    assert "http://mlflow.example/#/runs/r1" in shown["mlflow-run"]
    assert float(shown["training-progress"]) == 100
    assert shown["train"].count("\n| 1 |") == 20  # of 100 steps
    assert "| direction | 16 | 0.75 | 4 |" in shown["evaluate"]
    assert "| 16 | 0.03 | 0.01 | 0.05 |" in shown["register"]
    # A stage knows the flow run that it works for, and the page of lineage shows where the model comes from.
    told = json.loads((project / "reports" / "registration.json").read_text())["lineage"]["flow_run"]
    assert told["id"] == str(first.state_details.flow_run_id)
    assert told["url"].endswith(f"/flow-runs/flow-run/{told['id']}")
    assert escape(told["id"]) in shown["lineage"]
    assert "\n    reelnest lineage models:/reelnest/1 --commands | bash" in shown["lineage"]
    # Whatever the data says, no markup of its own reaches a page.
    for key in ("validate", "data-docs", "quarantine"):
        assert "&lt;script&gt;" in shown[key]
        assert "<script>" not in shown[key]
        assert "](http" not in shown[key]
    assert r"&lt;b&gt;videos&lt;/b&gt;\|" in shown["validate"]

    again = run_flow()
    assert outcomes(again) == dict.fromkeys(ALL, "unchanged")
    assert "Running stage" not in dvc_repro()

    # One event for the new champion.
    (project / "reports" / "registration.json").unlink()  # as in the next run's own workspace: the model is registered again
    third = run_flow()
    assert outcomes(third)["register"] == "ran"
    event = eventually(notifications.CHAMPION_CHANGED, flow_run=str(first.state_details.flow_run_id))
    assert (event["version"], event["reason"], event["training"]) == (1, "better at dim 16", "http://mlflow.example/#/runs/r1")
    for state in (again, third):
        assert not events(notifications.CHAMPION_CHANGED, flow_run=str(state.state_details.flow_run_id))


def test_after_dvc_repro_the_flow_only_registers_and_a_changed_setting_reruns_what_depends_on_it(project: Path) -> None:
    assert dvc_repro().count("Running stage") == 4
    assert outcomes(run_flow()) == {**dict.fromkeys(ALL, "unchanged"), "register": "ran"}
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("train: {x: 1}", "train: {x: 2}"))
    changed = run_flow()
    assert outcomes(changed) == {"validate": "unchanged", "preprocess": "unchanged", "train": "ran", "evaluate": "ran", "register": "ran"}
    assert "validate" not in artifacts(changed)


def test_a_killed_worker_is_tried_again_and_bad_data_is_not(project: Path) -> None:
    (project / "behaviour.txt").write_text("validate die-once\npreprocess refuse\n")
    state = run_flow()
    assert state.is_failed()
    assert str(state.message).startswith("Stage preprocess failed.")
    assert "line 3: not JSON" in str(state.message)
    assert tries(state, "validate") == 2
    assert tries(state, "preprocess") == 1
    assert tries(state, "train") == 0


def test_missing_data_is_told_before_anything_runs(project: Path) -> None:
    (project / "data" / "pairs.jsonl").unlink()
    (project / "data").rmdir()
    state = run_flow()
    assert state.is_failed()
    assert "reelnest sample" in str(state.message)
    assert tries(state, "validate") == 0


def test_runs_of_one_machine_take_turns_on_its_gpus_and_in_registering(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = project / "work" / "locks"
    gpus = locks / "gpus.lock"
    monkeypatch.setattr(stages.dvc, "gpu_lock", lambda stage, _workspace: gpus if stage in ("train", "evaluate") else None)
    with ThreadPoolExecutor() as threads:
        with waiting_lock(locks / "register.lock", lambda: None):  # as another run holds it
            with waiting_lock(gpus, lambda: None):
                running = threads.submit(run_flow)
                wait_for_line("waiting for another run that uses this machine's GPUs")
                assert (project / "prepared").exists()
                assert not (project / "models").exists()
            wait_for_line("waiting for another run that is registering a model")
            assert (project / "reports" / "evaluation.json").exists()
            assert not (project / "reports" / "registration.json").exists()
        assert outcomes(running.result()) == dict.fromkeys(ALL, "ran")


def wait_for_line(text: str) -> None:
    deadline = time.monotonic() + 120
    with get_client(sync_client=True) as client:
        while not any(text in line.message for line in client.read_logs(sort=LogSort.TIMESTAMP_DESC)):
            assert time.monotonic() < deadline
            time.sleep(0.2)


def events(name: str, *, flow_run: str) -> list[Any]:
    """Those of a flow run that have reached the server."""
    EventsWorker.instance().wait_until_empty()
    asked = {"filter": {"event": {"name": [name]}, "any_resource": {"id": [f"prefect.flow-run.{flow_run}"]}}}
    with get_client(sync_client=True) as client:
        return list(client.request("POST", "/events/filter", json=asked).json()["events"])


def eventually(name: str, *, flow_run: str) -> Any:
    deadline = time.monotonic() + 60
    while not (found := events(name, flow_run=flow_run)):
        assert time.monotonic() < deadline, f"{name} did not come"
        time.sleep(0.2)
    assert len(found) == 1
    return found[0]["payload"]


def test_refused_data_is_told_with_its_counts_and_its_pages_are_there(project: Path) -> None:
    (project / "behaviour.txt").write_text("validate bad-data\n")
    state = run_flow()
    assert state.is_failed()
    assert set(artifacts(state)) == {"validate", "quarantine", "data-docs"}
    told = eventually(notifications.DATA_REFUSED, flow_run=str(state.state_details.flow_run_id))
    assert (told["videos"], told["videos_good"], told["quarantined"]) == (4, 3, 1)
    assert told["why"].startswith("Stage validate failed.")


def tries(state: State[Any], task: str) -> int:
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName

    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id])),
            task_run_filter=TaskRunFilter(name=TaskRunFilterName(like_=task)),
        )
    return sum(run.run_count for run in runs)
