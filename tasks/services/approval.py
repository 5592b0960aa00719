"""Asks a person in Prefect to approve a model that meets all other conditions. The flow pauses meanwhile."""

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
    """The form in Prefect's UI when a person resumes the flow."""

    approve: bool
    name: str
    note: str = ""


def ask(workspace: Workspace) -> list[str]:
    """Waits for a person's decision and returns it as options of `reelnest register`. No decision in time counts as a refusal.

    Call it inside of a flow.
    """
    hours = load_params(workspace.params).registration.approval_hours
    get_run_logger().info("waiting up to %g hours for a person's approval: resume this flow run in Prefect", hours)
    form = ApprovalForm.with_initial_data(description=pages.registration_page(workspace))
    try:
        reply = pause_flow_run(wait_for_input=form, timeout=max(1, round(hours * HOUR)), poll_interval=SECONDS_BETWEEN_LOOKS)
    except FlowPauseTimeout:
        _resume()
        return ["--refused", f"no decision within {hours:g} hours"]
    words = f"{reply.name}: {reply.note}" if reply.note else reply.name
    return ["--approved" if reply.approve else "--refused", words]


def _resume() -> None:
    """Sets the flow run to Running, since Prefect otherwise runs no more tasks in it after its pause has timed out."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(flow_run.id), Running(), force=True)
