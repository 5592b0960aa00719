"""One Prefect task a stage. A task runs its DVC stage and shows what it made; whether there is anything to do, DVC decides.

A stage that fails ends its task in state Failed with the stage's own error message, and no traceback of ours around it. It is tried
again where it was interrupted (a killed worker; training then goes on from its last checkpoint) or MLflow did not answer, never where data
or settings are at fault.
"""

from collections.abc import Callable, Mapping, Sequence
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
"""Seconds before each further try of a stage that needs MLflow: enough for a server that starts anew."""
REGISTER = ("reelnest", "register")

Pages = Mapping[str, Callable[[Workspace], str]]
"""What makes each page, by the artifact's key."""
VALIDATION_PAGES: Pages = {"validate": pages.validation_page, "quarantine": pages.quarantine_page, "data-docs": pages.data_docs_page}
REGISTRATION_PAGES: Pages = {"register": pages.registration_page, "lineage": pages.lineage_page}
NOT_PUBLISHED = (OSError, ValueError, KeyError, TypeError, ArtifactError, httpx.HTTPError, PrefectException)
"""Errors that keep a page or a notification from being published, and are no reason for a stage to fail."""


def was_interrupted(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Prefect's question before a retry."""
    return isinstance(state.data, dvc.StageError) and state.data.interrupted


def _task(name: str, description: str, **retrying: Any) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A Prefect task that keeps nothing of its own (DVC does), tried again, `retries` times, only where it was interrupted."""
    return task(
        name=name,
        description=description,
        cache_policy=NO_CACHE,
        persist_result=False,
        retry_condition_fn=was_interrupted if retrying.get("retries") else None,
        **retrying,
    )


@_task("look-for-changes", "Asks DVC which stages are stale, and takes over data that was changed by hand.")
def look_for_changes() -> State[Any]:
    """The stale stages' names, with DVC's account of each."""
    logger = get_run_logger()
    workspace = Workspace()
    if not workspace.data.is_dir():
        return Failed(
            message=f"There is no data: {workspace.data.resolve()} does not exist. Make the sample with `reelnest sample`, fetch your"
            " team's with `dvc pull data.dvc`, or put your own there (README, 'Your own data')."
        )
    try:
        changed = dvc.changed_stages(workspace.root)
        if "data.dvc" in changed:
            # What `dvc repro` does with it too: the file then names the data that this run used.
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
    """Shows its pages also where the data cannot be used: that is when they are needed."""
    state = _run("validate", changed, before, VALIDATION_PAGES)
    workspace = Workspace()
    if state.is_failed() and (workspace.reports / ValidationReport.FILE).is_file():
        shown = show("validate", VALIDATION_PAGES, workspace)
        notify(lambda: notifications.data_refused(workspace, str(state.message), shown.get("quarantine")))
    return state


@_task(
    "preprocess",
    "Decodes each new video once into the frame store, and settles the splits.",
    retries=1,
    retry_delay_seconds=5,
    timeout_seconds=48 * HOUR,
)
def preprocess(changed: Mapping[str, Any], before: Sequence[dvc.Outcome]) -> State[dvc.Outcome]:
    """A second try decodes only what the first did not reach."""
    return _run("preprocess", changed, before, {"preprocess": pages.preprocessing_page})


@_task(
    "train",
    "Trains under `accelerate launch`; goes on from the last checkpoint where it was interrupted.",
    retries=3,
    retry_delay_seconds=RETRY_DELAYS,
    timeout_seconds=14 * 24 * HOUR,
)
def train(changed: Mapping[str, Any], before: Sequence[dvc.Outcome]) -> State[dvc.Outcome]:
    """Shows its progress while it runs, then the curve and the link to its run."""
    workspace = Workspace()
    state = _run("train", changed, before, {"train": pages.training_page}, on_tick=LiveProgress(workspace.work / "progress.json"))
    link = pages.run_link(workspace)
    if link is not None and state.name == "Completed":
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
    """Shows a table of quality by dim, and the link to the page with its curves and pictures."""
    state = _run("evaluate", changed, before, {"evaluate": pages.evaluation_page})
    link = pages.evaluation_link(Workspace()) if state.name == "Completed" else None
    if link is not None:
        create_link_artifact(key="evaluation-page", link=link, link_text="The evaluation's page in MLflow: what to ship, and why")
    return state


DVC_STAGES = (validate, preprocess, train, evaluate)
"""The tasks of the stages of `dvc.yaml`, in the order in which they run."""


@_task(
    "register",
    "Makes the model a version in MLflow's registry: challenger, and champion where it is the better one.",
    retries=3,
    retry_delay_seconds=RETRY_DELAYS,
    timeout_seconds=2 * HOUR,
)
def register(before: Sequence[dvc.Outcome], answer: Sequence[str] = ()) -> State[dvc.Outcome]:
    """No DVC stage, since its effects are outside: runs where a stage ran, or where this model was not registered yet.

    `answer` is a person's, as `approval.ask` gives it.
    """
    logger = get_run_logger()
    workspace = Workspace()
    if not answer and "ran" not in before and pages.is_registered(workspace):
        notify(lambda: notifications.new_champion(workspace))  # where an earlier try was cut off before it did
        return Completed(name="Unchanged", message="this model is registered already", data="unchanged")
    lock = waiting_lock(
        workspace.work / "locks" / "register.lock",
        lambda: logger.info("another run registers at this moment: if it is the same model, that becomes one version"),
    )
    try:
        with lock:
            dvc.run_stage("register", [*REGISTER, *answer], workspace.root, on_line=logger.info)
    except dvc.StageError as error:
        return Failed(message=str(error), data=error)
    show("register", REGISTRATION_PAGES, workspace)
    notify(lambda: notifications.new_champion(workspace))
    return Completed(data="ran")


def _run(
    stage: str,
    changed: Mapping[str, Any],
    before: Sequence[dvc.Outcome],
    made: Pages,
    *,
    on_tick: Callable[[], None] | None = None,
) -> State[dvc.Outcome]:
    logger = get_run_logger()
    workspace = Workspace()
    if not dvc.due(stage, changed, before):
        return Completed(name="Unchanged", message="inputs, settings and outputs are those of the last run", data="unchanged")
    try:
        with waiting_lock(
            dvc.stage_lock(stage, workspace), lambda: logger.info("another run makes the same at this moment; its outputs will be taken")
        ):
            outcome = dvc.reproduce(stage, workspace.root, on_line=logger.info, on_tick=on_tick)
    except dvc.StageError as error:
        return Failed(message=str(error), data=error)
    if outcome == "unchanged":
        return Completed(name="Unchanged", message="inputs, settings and outputs are those of the last run", data=outcome)
    show(stage, made, workspace)
    if outcome == "restored":
        return Completed(name="Restored", message="the same inputs and settings ran before: outputs taken from DVC's cache", data=outcome)
    return Completed(data=outcome)


def show(stage: str, made: Pages, workspace: Workspace) -> dict[str, str]:
    """Makes the stage's pages artifacts, and gives their addresses, where they have one, by key.

    A page that cannot be made is logged: the stage itself has done its work.
    """
    addresses = {}
    for key, make_page in made.items():
        try:
            artifact = create_markdown_artifact(key=key, markdown=make_page(workspace), description=f"What {stage} found.")
        except NOT_PUBLISHED as error:
            get_run_logger().warning("the page '%s' of %s was not made: %s: %s", key, stage, type(error).__name__, error)
        else:
            if PREFECT_UI_URL.value():
                addresses[key] = f"{PREFECT_UI_URL.value()}/artifacts/artifact/{artifact}"
    return addresses


def notify(emit: Callable[[], None]) -> None:
    """Emits an event. A failure is logged: what the event is about has happened all the same."""
    try:
        emit()
    except NOT_PUBLISHED as error:
        get_run_logger().warning("nobody was notified: %s: %s", type(error).__name__, error)
