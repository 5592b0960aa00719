"""Emits an event when new data has arrived. `prefect.yaml` has the deployment that trains on it."""

from pathlib import Path
from typing import Any

from tasks.process.runner import quieten

quieten()  # before Prefect reads its settings

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.scheduled import Revision
from reelnest.errors import RunError
from tasks.workspaces import data_arrival


@flow(name="reelnest-look-for-data", description="Emits reelnest.data.arrived for data that no run has used.", persist_result=False)
def look_for_data(revision: Revision = "HEAD") -> State[Any]:
    """Ends as Completed whether or not there is new data; as Failed if the revision or its data.dvc is missing.

    Args:
        revision: The branch to watch, such as origin/main (fetched each time), or HEAD, the checkout's own.
    """
    try:
        payload = data_arrival.arrived(Path.cwd(), revision)
    except RunError as error:
        return Failed(message=str(error))
    if payload is None:
        return Completed(message="no new data")
    data_arrival.notify(payload)
    return Completed(message=f"new data at {payload['commit'][:12]}")
