"""The pipeline: validate, preprocess, train, evaluate, register.

Usage: `python -m flows.pipeline` runs it once in this folder; `prefect.yaml` has its schedule. `dvc repro` runs the same stages without
Prefect.
"""

import sys
from typing import Any

from tasks.process.runner import quieten

quieten()  # before Prefect reads its settings

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from reelnest.stages.workspace import Workspace
from tasks import stages
from tasks.pages import artifacts as pages
from tasks.pages.summary import summary
from tasks.services import approval
from tasks.services.prefect_server import prefect_api


@flow(
    name="reelnest-train",
    description="Validates and preprocesses the data, trains, evaluates and registers the model. Runs only stages that DVC finds stale.",
    persist_result=False,
)
def train_pipeline(register_model: bool = True) -> State[Any]:
    """Ends in the state of the first stage that did not succeed, or as Completed with what each stage did.

    Args:
        register_model: Off evaluates only.
    """
    looked = stages.look_for_changes(return_state=True)
    if not looked.is_completed():
        return _ended(looked)
    changed = looked.result()
    outcomes: dict[str, Any] = {}
    state: State[Any] = looked
    for stage in stages.DVC_STAGES:
        state = stage(changed, tuple(outcomes.values()), wait_for=[state], return_state=True)
        if not state.is_completed():
            return _ended(state)
        outcomes[stage.name] = state.result()
    if not register_model:
        return _completed(outcomes)
    state = stages.register(tuple(outcomes.values()), wait_for=[state], return_state=True)
    if not state.is_completed():
        return _ended(state)
    outcomes["register"] = state.result()
    if pages.waits_for_approval(Workspace()):
        decision = approval.ask(Workspace())
        state = stages.register(tuple(outcomes.values()), decision, return_state=True)
        if not state.is_completed():
            return _ended(state)
        outcomes["register"] = state.result()
    return _completed(outcomes)


def _completed(outcomes: dict[str, Any]) -> State[Any]:
    return Completed(message=", ".join(f"{stage} {outcome}" for stage, outcome in outcomes.items()))


def _ended(state: State[Any]) -> State[Any]:
    """Returns the flow's state after a task that did not succeed. (Prefect would turn the task's state into "1/1 states failed".)"""
    return State(type=state.type, name=state.name, message=state.message)


def main() -> int:
    """Runs the flow once, with the configured Prefect server or a temporary one, and prints a summary. Returns the exit status."""
    workspace = Workspace()
    with prefect_api(workspace.root):
        state = train_pipeline(return_state=True)
    if not state.is_completed():
        sys.stderr.write(f"\n{state.message}\n")
        return 1
    sys.stdout.write(f"\n{summary(workspace)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
