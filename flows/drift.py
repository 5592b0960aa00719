"""Compares new data with the champion's training data, and evaluates the champion on it. `prefect.yaml` has the deployment.

To run it by hand: `reelnest drift`.
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
    description="Compares new data with the champion's training data, and evaluates the champion on it.",
    persist_result=False,
)
def drift(revision: Revision = "HEAD", quality_alone: bool = False) -> State[Any]:
    """Ends as Completed with what drifted, or if there was nothing to do; as Failed if the data or MLflow is not available.

    Args:
        revision: The branch, tag or commit whose data is measured. HEAD is the commit that the worker's checkout has checked out; a
            remote's branch, such as origin/main, is fetched first.
        quality_alone: Measures only the champion's retrieval. Use it if the champion's training data is no longer available.
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
