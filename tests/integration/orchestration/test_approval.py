"""The flow asks a person before a model becomes champion: what comes of each answer, and of none."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType

from flows.pipeline import train_pipeline
from reelnest.settings import Params, Register
from tasks import stages
from tasks.services import approval

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

REGISTER = """
import json, sys
import valid_reports
answer = dict(zip(sys.argv[2::2], sys.argv[3::2]))
decision = "promoted" if "--approved" in answer else "not promoted" if answer else "waits for approval"
conditions = [{"name": "approval", "passed": None, "why": "it needs a person's approval"}]
report = valid_reports.registration(version=2, aliases=["challenger"], decision=decision, reason=str(answer), conditions=conditions)
json.dump(report, open("reports/registration.json", "w"))
"""


@pytest.fixture(autouse=True)
def _a_registration_that_waits(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one is tested with the registry."""
    (project / "register.py").write_text(REGISTER)
    monkeypatch.setattr(stages, "REGISTER", (sys.executable, "register.py", "register"))
    monkeypatch.setattr(approval, "SECONDS_BETWEEN_LOOKS", 1)


def run_flow(monkeypatch: pytest.MonkeyPatch, hours: float = 1.0) -> str:
    """Its last words."""
    register = Register(approval="prefect", approval_hours=hours)
    monkeypatch.setattr(approval, "load_params", lambda _: Params(registration=register))
    state = train_pipeline(return_state=True)
    assert state.is_completed(), state.message
    return str(state.message)


@contextmanager
def answering(**given: Any) -> Iterator[None]:
    """A person at Prefect's page, who answers when asked."""
    paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))

    gone = threading.Event()

    def answer() -> None:
        with get_client(sync_client=True) as client:
            while not gone.wait(0.2):
                if found := client.read_flow_runs(flow_run_filter=paused):
                    client.resume_flow_run(found[0].id, run_input=given)
                    return

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield
    finally:
        gone.set()
        thread.join()


def registration() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("reports/registration.json").read_text())
    return found


def test_a_person_approves_and_another_refuses(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(approve=True, name="Anna", note="looks right"):
        assert run_flow(monkeypatch).endswith("register ran")
    assert (registration()["decision"], registration()["reason"]) == ("promoted", "{'--approved': 'Anna: looks right'}")
    # A flow that was ended while it waited: the next one asks again, though no stage has anything to do.
    subprocess.run([sys.executable, "register.py", "register"], check=True)
    with answering(approve=False, name="Bo"):
        assert "evaluate unchanged" in run_flow(monkeypatch)
    assert (registration()["decision"], registration()["reason"]) == ("not promoted", "{'--refused': 'Bo'}")


def test_no_answer_in_time_is_a_refusal_that_is_written_down(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_flow(monkeypatch, hours=0.001).endswith("register ran")
    assert registration()["decision"] == "not promoted"
    assert "no decision within 0.001 hours" in registration()["reason"]
