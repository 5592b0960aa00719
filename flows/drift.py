"""Whether new data is still what the champion was trained on, and how good the champion is on it. `prefect.yaml` holds the deployment.

By hand: `reelnest drift`.
"""

from pathlib import Path
from typing import Any

from tasks.process.runner import quieten

quieten()  # before Prefect reads its settings

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.scheduled import Revision
from reelnest.errors import ReelnestError
from reelnest.stages.workspace import Workspace
from tasks import stages
from tasks.pages import artifacts as pages
from tasks.process import dvc
from tasks.process.runner import CommandError
from tasks.services import notifications
from tasks.workspaces import drift_run


@flow(
    name="reelnest-drift",
    description="Measures how far new data is from what the champion was trained on, and how good the champion is on it.",
    persist_result=False,
)
def drift(revision: Revision = "HEAD", quality_alone: bool = False) -> State[Any]:
    """Completed with what drifted, or that there was nothing to do; Failed where the data or MLflow is not to be had.

    Args:
        revision: Whose data is looked at: a branch, a tag or a commit. HEAD is what the worker's checkout has checked out (committed files
            only); a remote's branch, such as origin/main, is fetched first.
        quality_alone: Measures the champion's retrieval only. For a champion whose own data is no longer to be had.
    """
    logger = get_run_logger()
    try:
        measured = drift_run.measure(Path.cwd(), revision, str(flow_run.get_name()), quality_alone=quality_alone, on_line=logger.info)
    except (ReelnestError, CommandError, dvc.StageError) as error:
        return Failed(message=str(error))
    if measured.report is not None:
        report = measured.report
        stages.show("drift", {"drift": lambda _: pages.drift_page(report)}, Workspace())
        stages.notify(lambda: notifications.data_drifted(report))
    return Completed(message=measured.message)
