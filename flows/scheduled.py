"""The flow of the training deployments: runs the pipeline in a new git worktree at a revision.

`prefect.yaml` has the deployments. To run the pipeline in the checkout itself: `python -m flows.pipeline`.
"""

from pathlib import Path
from typing import Annotated, Any

from tasks.process.runner import quieten

quieten()  # before Prefect reads its settings

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Failed
from pydantic import Field, WithJsonSchema

from flows.pipeline import train_pipeline
from reelnest.errors import ReelnestError, RunError
from tasks.process.runner import CommandError, environment
from tasks.workspaces.run_workspace import RunWorkspace, run_workspace
from tasks.workspaces.settings_schema import settings_schema

Revision = Annotated[str, Field(min_length=1)]
Settings = Annotated[dict[str, Any] | None, WithJsonSchema(settings_schema())]


@flow(
    name="reelnest-train",
    description="Runs the pipeline in a new git worktree. The run is saved under refs/reelnest/runs/; `reelnest runs` lists it.",
    persist_result=False,
)
def scheduled_pipeline(
    revision: Revision = "HEAD", settings: Settings = None, register_model: bool = True, parent_run: str | None = None
) -> State[Any]:
    """Ends as the pipeline does; as Failed if the worktree cannot be created or was removed during the run.

    Args:
        revision: The branch, tag or commit to run. HEAD is the commit that the worker's checkout has checked out; a remote's branch, such
            as origin/main, is fetched first.
        settings: Changes to params.yaml for this run, by dotted key: {"train.epochs": 10, "loss.temperature": 0.02}.
        register_model: Off evaluates only.
        parent_run: The MLflow parent run of the training's run. A sweep sets it to its own.
    """
    # Prefect's form takes its help texts from the docstring: it drops the description of an annotated Field.
    try:
        with run_workspace(Path.cwd(), str(flow_run.get_id()), str(flow_run.get_name()), revision, settings or {}) as workspace:
            _fetch(workspace)
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


def _fetch(workspace: RunWorkspace) -> None:
    """Fetches what runs on other machines have finished, so that this run does not do it again."""
    logger = get_run_logger()
    try:
        fetched = workspace.fetch()
    except RunError as error:
        logger.warning("what runs on other machines have finished could not be fetched, and is done again. %s", error)
    else:
        if fetched:
            logger.info("finished before, here or on another machine: %s", ", ".join(fetched))


def _save(workspace: RunWorkspace, state: State[Any], *, registered: bool) -> State[Any]:
    """Saves and pushes the run. Returns its state: Failed if another run has saved its results under this run's name."""
    logger = get_run_logger()
    run = workspace.save(str(state.message), registered=registered)
    logger.info("saved as %s", run.ref)
    try:
        workspace.log_usage(run)
    except ReelnestError as error:
        logger.warning("what the run used is saved, but not in MLflow: %s", error)
    try:
        pushed = workspace.push()
    except (RunError, CommandError) as error:
        logger.warning("the run is saved, but was not pushed. The next run will push it too. %s", error)
    else:
        if pushed:
            logger.info("pushed: %s", ", ".join(pushed))
    if run.id != workspace.run.id and workspace.owner() != run.flow_run:
        return Failed(message=f"{workspace.run.ref} belongs to another run and was not changed. This run's results are saved as {run.ref}.")
    return state
