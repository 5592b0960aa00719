"""Whether a revision's data is new: named by a `data.dvc` that no kept run was made from, and that nobody was told of yet."""

from pathlib import Path
from typing import Any

from prefect.events import emit_event
from prefect.variables import Variable

from reelnest.commands.runs import kept_runs
from reelnest.errors import RunError
from reelnest.git import git
from tasks.workspaces.run_workspace import commit_of

EVENT = "reelnest.data.arrived"
RESOURCE = "reelnest.data"
TOLD = "reelnest_data_told"
"""Prefect's variable: git's hash of the data.dvc that was told last. Without it, data that fails its checks would be tried for ever."""


def arrived(checkout: Path, revision: str) -> dict[str, Any] | None:
    """The event's payload; None where the data is known. Raises RunError where the revision or its data.dvc is missing."""
    commit = commit_of(checkout, revision)
    try:
        data = git(checkout, "rev-parse", "--verify", "--quiet", f"{commit}:data.dvc").strip()
    except RunError:
        raise RunError(f"revision: '{revision}' has no data.dvc. Run `dvc add data` and commit data.dvc there.") from None
    if data == Variable.get(TOLD) or any(run.data == data for run in kept_runs(checkout)):
        return None
    return {"revision": revision, "commit": commit, "data": data}


def tell(payload: dict[str, Any]) -> None:
    """Emits the event, and then remembers it: cut off in between, it is told again, and the second run finds nothing to do."""
    emit_event(EVENT, resource={"prefect.resource.id": RESOURCE}, payload=payload)
    Variable.set(TOLD, payload["data"], overwrite=True)
