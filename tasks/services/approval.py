"""A person's word on a model that fulfils all else: the flow pauses and asks in Prefect."""

from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Running

from reelnest.settings import load_params
from reelnest.stages.workspace import Workspace
from tasks.pages import artifacts as pages

HOUR = 3600
SECONDS_BETWEEN_LOOKS = 5


class ApprovalForm(RunInput):
    """What Prefect's page asks for where a person resumes the flow."""

    approve: bool
    name: str
    note: str = ""


def ask(workspace: Workspace) -> list[str]:
    """Waits, inside of a flow, for a person's answer, and gives it as options of `reelnest register`. No answer in time is a refusal."""
    hours = load_params(workspace.params).registration.approval_hours
    get_run_logger().info("waiting up to %g hours for a person's approval: resume this flow run in Prefect", hours)
    asked = ApprovalForm.with_initial_data(description=pages.registration_page(workspace))
    try:
        answer = pause_flow_run(wait_for_input=asked, timeout=max(1, round(hours * HOUR)), poll_interval=SECONDS_BETWEEN_LOOKS)
    except FlowPauseTimeout:
        _go_on()
        return ["--refused", f"nobody answered within {hours:g} hours"]
    words = f"{answer.name}: {answer.note}" if answer.note else answer.name
    return ["--approved" if answer.approve else "--refused", words]


def _go_on() -> None:
    """Prefect lets no task run in a flow whose pause went by, and no such flow run again: unless it is told to."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(flow_run.id), Running(), force=True)
