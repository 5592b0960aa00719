"""The deployment that looks for drift, with a real Prefect server: its states, its page, and that people are told once."""

from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.variables import Variable

from flows.drift import drift
from reelnest.errors import RunError
from tasks.pages import artifacts as pages
from tasks.services import notifications
from tasks.workspaces import drift_run
from tasks.workspaces.drift_run import Measured
from tests.support.drift_reports import drift_report

pytestmark = pytest.mark.usefixtures("prefect_server", "repository")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(notifications, "emit_event", lambda name, resource, payload: found.append({"event": name, **resource, **payload}))
    return found


def find(monkeypatch: pytest.MonkeyPatch, measured: Measured | RunError) -> None:
    def measure(*_: Any, **__: Any) -> Measured:
        if isinstance(measured, RunError):
            raise measured
        return measured

    monkeypatch.setattr(drift_run, "measure", measure)


def page_of_the_last_run() -> str:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["drift"])))
    return str(max(found, key=lambda one: one.created).data)


def test_drift_is_told_once_for_each_champion_and_version_of_the_data(
    monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]]
) -> None:
    report = drift_report()
    place = {"tracking_uri": "http://mlflow:5000", "experiment_id": "1", "run_id": "r", "folder": "drift/0123"}
    report["mlflow"] = place
    find(monkeypatch, Measured(report["headline"], report))
    for _ in range(2):
        assert drift(return_state=True).message == "2 of 4 measures drifted: length of texts, pair kinds"
    (told,) = events
    assert (told["event"], told["prefect.resource.id"]) == ("reelnest.champion.drifted", "reelnest.champion")
    assert told["measures"] == ["length of texts: 0.449 (Kolmogorov-Smirnov D)", "pair kinds: 0.417 (Cramér's V)"]
    assert told["page"] == "http://mlflow:5000/#/experiments/1/runs/r/artifacts/drift/0123/drift.html"
    page = page_of_the_last_run()
    assert told["page"] in page
    assert "<script>" not in page
    assert "| length of texts | drifted | 0.449 |" in page
    for newer in ({"data": "fedc.dir"}, {"champion": {"name": "reelnest", "version": 4}}):
        find(monkeypatch, Measured("", report | newer))
        drift(return_state=True)
    assert len(events) == 3
    find(monkeypatch, Measured("No drift was shown", report | {"drifted": [], "data": "0000.dir"}))
    assert drift(return_state=True).message == "No drift was shown"
    assert len(events) == 3
    Variable.unset(notifications.DRIFT_NOTIFIED)


def test_nothing_to_do_is_completed_and_missing_data_failed_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]]
) -> None:
    find(monkeypatch, Measured("Nothing to do: version 1"))
    state = drift(return_state=True)
    assert (state.is_completed(), state.message) == (True, "Nothing to do: version 1")
    find(monkeypatch, RunError("Where it is, run `dvc push`."))
    state = drift(return_state=True)
    assert (state.is_failed(), state.message) == (True, "Where it is, run `dvc push`.")
    assert events == []


def test_a_revision_that_is_not_there_is_refused(repository: Path) -> None:
    state = drift("nowhere", return_state=True)
    assert state.is_failed()
    assert "has no commit 'nowhere'" in str(state.message)


def test_without_a_server_the_page_names_no_link() -> None:
    report = drift_report() | {"mlflow": {"tracking_uri": "sqlite:///mlflow.db"}, "quality": None}
    assert pages.drift_link(report) is None
    assert "among the artifacts of the champion's run" in pages.drift_page(report)
