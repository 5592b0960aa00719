"""Says when data has arrived, as an event; `prefect.yaml` holds the deployment that trains on it."""

from pathlib import Path
from typing import Any

from tasks.runner import quieten

quieten()  # before Prefect reads its settings

from prefect import flow  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.states import Completed, Failed  # noqa: E402

from flows.scheduled import Revision  # noqa: E402
from reelnest.errors import RunError  # noqa: E402
from tasks import data_arrival  # noqa: E402


@flow(name="reelnest-look-for-data", description="Emits reelnest.data.arrived for data that no run was made from.", persist_result=False)
def look_for_data(revision: Revision = "HEAD") -> State[Any]:
    """Completed with what was found; Failed where the revision or its data.dvc is missing.

    Args:
        revision: What is watched: a branch, such as origin/main (fetched each time), or HEAD, the checkout's own.
    """
    try:
        payload = data_arrival.arrived(Path.cwd(), revision)
    except RunError as error:
        return Failed(message=str(error))
    if payload is None:
        return Completed(message="no new data")
    data_arrival.tell(payload)
    return Completed(message=f"new data at {payload['commit'][:12]}")
