"""One Prefect task for each stage. A task runs its DVC stage and publishes its pages; DVC decides whether the stage is stale.

If a stage fails, its task ends in state Failed with the stage's error message and no traceback. Prefect retries it if it was interrupted (a
killed worker; training then resumes from its last checkpoint) or MLflow was unreachable, but not for errors in data or settings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ParamSpec, TypeVar

import httpx
from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_UI_URL
from prefect.states import Completed, Failed
from prefect.tasks import Task

from reelnest.artifacts.validation_report import ValidationReport
from reelnest.errors import ArtifactError
from reelnest.stages.workspace import Workspace
from tasks.pages import artifacts as pages
from tasks.process import dvc
from tasks.process.locks import waiting_lock
from tasks.process.progress import LiveProgress
from tasks.process.runner import CommandError
from tasks.services import notifications

P = ParamSpec("P")
R = TypeVar("R")

HOUR = 3600.0
RETRY_DELAYS = [5, 15, 30]
"""Seconds before each retry of a stage that needs MLflow: enough for its server to restart."""
REGISTER = ("reelnest", "register")

Pages = Mapping[str, Callable[[Workspace], str]]
"""The function that renders each page, by the artifact's key."""
VALIDATION_PAGES: Pages = {"validate": pages.validation_page, "quarantine": pages.quarantine_page, "data-docs": pages.data_docs_page}
REGISTRATION_PAGES: Pages = {"register": pages.registration_page, "lineage": pages.lineage_page}
NOT_PUBLISHED = (OSError, ValueError, KeyError, TypeError, ArtifactError, httpx.HTTPError, PrefectException)
"""Errors that prevent a page or a notification from being published, but must not fail the stage."""


def was_interrupted(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Returns whether Prefect should retry the task."""
    return isinstance(state.data, dvc.StageError) and state.data.interrupted


def _task(name: str, description: str, **retrying: Any) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Returns a Prefect task without caching (DVC does that), which is retried only if it was interrupted."""
    return task(
        name=name,
        description=description,
        cache_policy=NO_CACHE,
        persist_result=False,
        retry_condition_fn=was_interrupted if retrying.get("retries") else None,
        **retrying,
    )


@_task("look-for-changes", "Asks DVC which stages are stale, and records data that was edited by hand.")
def look_for_changes() -> State[Any]:
    """Returns the names of the stale stages, with DVC's status of each."""
    logger = get_run_logger()
    workspace = Workspace()
    if not workspace.data.is_dir():
        return Failed(
            message=f"There is no data: {workspace.data.resolve()} does not exist. Generate the sample with `reelnest sample`, fetch your"
            " team's data with `dvc pull data.dvc`, or add your own (README, 'Your own data')."
        )
    try:
        changed = dvc.changed_stages(workspace.root)
        if "data.dvc" in changed:
            # As `dvc repro` does: data.dvc then names the data that this run uses.
            dvc.reproduce("data.dvc", workspace.root, on_line=logger.info)
    except (CommandError, dvc.StageError) as error:
        return Failed(message=str(error), data=error)
    stale = [stage.name for stage in DVC_STAGES if stage.name in changed]
    return Completed(message=f"stale: {', '.join(stale)}" if stale else "nothing is stale", data=changed)


@_task(
    "validate",
    "Checks the data with Great Expectations and quarantines bad records.",
    retries=1,
    retry_delay_seconds=5,
    timeout_seconds=12 * HOUR,
)
def validate(changed: Mapping[str, Any], before: Sequence[dvc.Outcome]) -> State[dvc.Outcome]:
    """Publishes its pages even if the data cannot be used, since they are needed most then."""
    state = _run("validate", changed, before, VALIDATION_PAGES)
    workspace = Workspace()
    if state.is_failed() and (workspace.reports / ValidationReport.FILE).is_file():
        addresses = show("validate", VALIDATION_PAGES, workspace)
        notify(lambda: notifications.data_refused(workspace, str(state.message), addresses.get("quarantine")))
    return state


@_task(
    "preprocess",
    "Decodes each new video once into the frame store, and assigns the splits.",
    retries=1,
    retry_delay_seconds=5,
    timeout_seconds=48 * HOUR,
)
def preprocess(changed: Mapping[str, Any], before: Sequence[dvc.Outcome]) -> State[dvc.Outcome]:
    """A retry decodes only the videos that are still missing."""
    return _run("preprocess", changed, before, {"preprocess": pages.preprocessing_page})


@_task(
    "train",
    "Trains under `accelerate launch`; resumes from the last checkpoint after an interruption.",
    retries=3,
    retry_delay_seconds=RETRY_DELAYS,
    timeout_seconds=14 * 24 * HOUR,
)
def train(changed: Mapping[str, Any], before: Sequence[dvc.Outcome]) -> State[dvc.Outcome]:
    """Shows progress while it runs, then the loss curve and a link to its MLflow run."""
    workspace = Workspace()
    state = _run("train", changed, before, {"train": pages.training_page}, on_tick=LiveProgress(workspace.work / "progress.json"))
    link = pages.run_link(workspace)
    if link is not None and state.name == "Completed":
        with _failure_logged("the link to the training's run was not published"):
            create_link_artifact(key="mlflow-run", link=link, link_text="The training's run in MLflow")
    return state


@_task(
    "evaluate",
    "Measures retrieval on the test split at each dim.",
    retries=3,
    retry_delay_seconds=RETRY_DELAYS,
    timeout_seconds=12 * HOUR,
)
def evaluate(changed: Mapping[str, Any], before: Sequence[dvc.Outcome]) -> State[dvc.Outcome]:
    """Publishes a table of quality by dim, and a link to the evaluation page."""
    state = _run("evaluate", changed, before, {"evaluate": pages.evaluation_page})
    link = pages.evaluation_link(Workspace()) if state.name == "Completed" else None
    if link is not None:
        with _failure_logged("the link to the evaluation page was not published"):
            create_link_artifact(key="evaluation-page", link=link, link_text="The evaluation page in MLflow")
    return state


DVC_STAGES = (validate, preprocess, train, evaluate)
"""The tasks of the stages in `dvc.yaml`, in order."""


@_task(
    "register",
    "Registers the model in MLflow as challenger, and promotes it to champion if it passes the gate.",
    retries=3,
    retry_delay_seconds=RETRY_DELAYS,
    timeout_seconds=2 * HOUR,
)
def register(before: Sequence[dvc.Outcome], decision: Sequence[str] = ()) -> State[dvc.Outcome]:
    """This is not a DVC stage, since it changes MLflow. It runs if a stage ran, or if this model is not registered yet.

    `decision` is a person's decision on the model, as `approval.ask` returns it.
    """
    logger = get_run_logger()
    workspace = Workspace()
    if not decision and "ran" not in before and pages.is_registered(workspace):
        notify(lambda: notifications.new_champion(workspace))  # in case an earlier try was interrupted before it notified
        return Completed(name="Unchanged", message="this model is already registered", data="unchanged")
    lock = waiting_lock(
        workspace.work / "locks" / "register.lock",
        lambda: logger.info("waiting for another run that is registering a model"),
    )
    try:
        with lock:
            dvc.run_stage("register", [*REGISTER, *decision], workspace.root, on_line=logger.info)
    except dvc.StageError as error:
        return Failed(message=str(error), data=error)
    show("register", REGISTRATION_PAGES, workspace)
    notify(lambda: notifications.new_champion(workspace))
    return Completed(data="ran")


def _run(
    stage: str,
    changed: Mapping[str, Any],
    before: Sequence[dvc.Outcome],
    page_makers: Pages,
    *,
    on_tick: Callable[[], None] | None = None,
) -> State[dvc.Outcome]:
    logger = get_run_logger()
    workspace = Workspace()
    if not dvc.due(stage, changed, before):
        return Completed(name="Unchanged", message="inputs, settings and outputs have not changed since the last run", data="unchanged")
    try:
        with (
            waiting_lock(
                dvc.stage_lock(stage, workspace), lambda: logger.info("waiting for another run of this stage; its outputs will be reused")
            ),
            _gpus(stage, workspace),
        ):
            outcome = dvc.reproduce(stage, workspace.root, on_line=logger.info, on_tick=on_tick)
    except dvc.StageError as error:
        return Failed(message=str(error), data=error)
    if outcome == "unchanged":
        return Completed(name="Unchanged", message="inputs, settings and outputs have not changed since the last run", data=outcome)
    show(stage, page_makers, workspace)
    if outcome == "restored":
        return Completed(
            name="Restored", message="outputs restored from DVC's cache, since the same inputs and settings ran before", data=outcome
        )
    return Completed(data=outcome)


def _gpus(stage: str, workspace: Workspace) -> AbstractContextManager[None]:
    """Has the machine's GPUs for the block, if the stage uses them. A deployment's limit counts only its own runs."""
    path = dvc.gpu_lock(stage, workspace)
    if path is None:
        return nullcontext()
    return waiting_lock(path, lambda: get_run_logger().info("waiting for another run that uses this machine's GPUs (launch.share_gpus)"))


def show(stage: str, page_makers: Pages, workspace: Workspace) -> dict[str, str]:
    """Publishes the stage's pages as artifacts. Returns their URLs by key, if Prefect has a UI.

    A page that cannot be published is logged and does not fail the stage.
    """
    addresses = {}
    for key, make_page in page_makers.items():
        with _failure_logged(f"the page '{key}' of {stage} was not published"):
            artifact = create_markdown_artifact(key=key, markdown=make_page(workspace), description=f"Results of {stage}.")
            if PREFECT_UI_URL.value():
                addresses[key] = f"{PREFECT_UI_URL.value()}/artifacts/artifact/{artifact}"
    return addresses


@contextmanager
def _failure_logged(failure: str) -> Iterator[None]:
    """Logs an error of publishing, which does not fail the stage."""
    try:
        yield
    except NOT_PUBLISHED as error:
        get_run_logger().warning("%s: %s: %s", failure, type(error).__name__, error)


def notify(emit: Callable[[], None]) -> None:
    """Emits an event. A failure is logged and does not fail the stage."""
    with _failure_logged("nobody was notified"):
        emit()
