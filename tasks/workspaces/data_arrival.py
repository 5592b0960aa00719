"""Detects new data: a revision's `data.dvc` that no saved run has used and for which no event was emitted."""

from pathlib import Path
from typing import Any

from prefect.events import emit_event
from prefect.variables import Variable

from reelnest.commands.runs import saved_runs
from reelnest.errors import RunError
from reelnest.git import git
from tasks.workspaces.revisions import commit_of

EVENT = "reelnest.data.arrived"
RESOURCE = "reelnest.data"
NOTIFIED = "reelnest_data_notified"
"""Prefect variable with git's hash of the data.dvc of the last event, so that data that fails validation is not tried again and again."""


def arrived(checkout: Path, revision: str) -> dict[str, Any] | None:
    """Returns the event's payload; None if the data is not new. Raises RunError if the revision or its data.dvc is missing."""
    commit = commit_of(checkout, revision)
    try:
        data = git(checkout, "rev-parse", "--verify", "--quiet", f"{commit}:data.dvc").strip()
    except RunError:
        raise RunError(f"revision: '{revision}' has no data.dvc. Run `dvc add data` and commit data.dvc there.") from None
    if data == Variable.get(NOTIFIED) or any(run.data == data for run in saved_runs(checkout)):
        return None
    return {"revision": revision, "commit": commit, "data": data}


def notify(payload: dict[str, Any]) -> None:
    """Emits the event, then sets the variable. An interruption in between causes a second event, whose run has nothing to do."""
    emit_event(EVENT, resource={"prefect.resource.id": RESOURCE}, payload=payload)
    Variable.set(NOTIFIED, payload["data"], overwrite=True)
