"""What a deployment runs: the pipeline in a git worktree of its own, at the revision that the deployment names.

`prefect.yaml` holds the deployments. By hand and in the checkout itself: `python -m flows.pipeline`.
"""

from pathlib import Path
from typing import Annotated, Any

from tasks.process.runner import quieten

quieten()  # before Prefect reads its settings

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Failed
from pydantic import Field

from flows.pipeline import train_pipeline
from reelnest.errors import RunError
from tasks.process.runner import CommandError, environment
from tasks.workspaces.run_workspace import RunWorkspace, run_workspace

Revision = Annotated[str, Field(min_length=1)]


@flow(
    name="reelnest-train",
    description="The pipeline in a git worktree of its own. What it made is saved under refs/reelnest/runs/; `reelnest runs` lists it.",
    persist_result=False,
)
def scheduled_pipeline(
    revision: Revision = "HEAD", settings: dict[str, Any] | None = None, register_model: bool = True, parent_run: str | None = None
) -> State[Any]:
    """Ends as the pipeline does; Failed where the workspace cannot be made, or was removed under the run.

    Args:
        revision: What to run: a branch, a tag or a commit. HEAD is what the worker's checkout has checked out (committed files only);
            a remote's branch, such as origin/main, is fetched first.
        settings: Changes to params.yaml for this run alone, by dotted key: {"train.epochs": 10, "loss.temperature": 0.02}.
        register_model: Off evaluates only.
        parent_run: The MLflow run below which the training's is shown. A sweep enters its own.
    """
    # Prefect's form takes its help texts from here: it drops the description of an annotated Field.
    try:
        with run_workspace(Path.cwd(), str(flow_run.get_id()), str(flow_run.get_name()), revision, settings or {}) as workspace:
            try:
                with environment({"REELNEST_PARENT_RUN": parent_run or ""}):
                    state = train_pipeline.fn(register_model=register_model)
            finally:
                workspace.check()
            if state.is_completed():
                return _save(workspace, state, registered=register_model)
    except RunError as error:
        return Failed(message=str(error))
    return state


def _save(workspace: RunWorkspace, state: State[Any], *, registered: bool) -> State[Any]:
    """The run's state: Failed where the name that it would be saved under holds another run's results."""
    logger = get_run_logger()
    run = workspace.save(str(state.message), registered=registered)
    logger.info("saved as %s", run.ref)
    try:
        pushed = workspace.push()
    except (RunError, CommandError) as error:
        logger.warning("the run is saved here, but was not pushed. The next run pushes it too. %s", error)
    else:
        if pushed:
            logger.info("pushed: %s", ", ".join(pushed))
    if run.id != workspace.run.id and workspace.owner() != run.flow_run:
        return Failed(
            message=f"{workspace.run.ref} exists and is not this run's: it was left as it is. This run's results are saved as {run.ref}."
        )
    return state
