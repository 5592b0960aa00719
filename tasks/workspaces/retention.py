"""Retention: decides which past runs to keep and removes the others.

It removes refs, worktrees, checkpoints, files in DVC's cache, MLflow runs and Prefect runs. A run is kept if it is among the newest, or if
a version registered from it has an alias, was champion, or is the target of a rollback. Its lineage is kept too: the commit with its
settings, code and data.dvc, and the files in DVC's cache.
"""

import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from reelnest.commands.runs import Run, saved_runs
from reelnest.errors import RunError
from reelnest.git import git
from reelnest.registry.versions.retention import Registered, registered, remove
from reelnest.settings import Params, load_params, tracking_uri
from reelnest.stages.workspace import Workspace
from tasks.process import dvc_cache
from tasks.process.locks import waiting_lock
from tasks.process.runner import output_of
from tasks.services import prefect_runs
from tasks.workspaces import pushing
from tasks.workspaces.run_folders import orphaned_workspaces, remove_orphaned_workspaces, working
from tasks.workspaces.run_workspace import GATE

DAY_SECONDS = 86400.0
STORE, RUNS = "MLFLOW_TRACKING_URI", "REELNEST_RUNS"
"""Variables for the process that frees the storage of runs."""
RUNS_AT_ONCE = 1000
"""A variable may have 128 kB."""


@dataclass(frozen=True)
class Plan:
    """What a clean-up will remove."""

    refs: list[Run] = field(default_factory=list)
    worktrees: list[Path] = field(default_factory=list)
    checkpoints: list[Path] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    mlflow_runs: list[str] = field(default_factory=list)
    flow_runs: list[UUID] = field(default_factory=list)
    cache_files: int = 0
    working: list[str] = field(default_factory=list)
    """Active runs. While there are any, DVC's cache is not cleaned, since their new files are not referenced yet."""

    def text(self) -> str:
        """Returns one line for each kind."""
        lines = [
            ("run refs", ", ".join(run.id for run in self.refs)),
            ("orphaned worktrees", ", ".join(folder.name for folder in self.worktrees)),
            ("checkpoints of trainings that nobody resumed", ", ".join(folder.name for folder in self.checkpoints)),
            ("registry versions", ", ".join(map(str, self.versions))),
            ("MLflow runs", ", ".join(self.mlflow_runs)),
            ("Prefect flow runs", str(len(self.flow_runs) or "")),
            ("files of DVC's cache", str(self.cache_files or "")),
        ]
        text = [f"{what}: {which or 'none'}" for what, which in lines]
        if self.working:
            text[-1] = f"files of DVC's cache: none, because runs are active ({', '.join(self.working)})"
        return "\n".join(text)


def plan(checkout: Path, keep: int, days: int) -> Plan:
    """Plans a clean-up that keeps the newest `keep` runs, and unfinished trainings and Prefect runs of the last `days`. Removes nothing.

    Raises RunError or RegistryError if it cannot be determined which runs are needed.
    """
    params = load_params(checkout / "params.yaml")
    runs, versions = saved_runs(checkout), registered(params)
    refs = runs_to_remove(runs, versions, keep)
    staying = [run for run in runs if run not in refs]
    needed = {run.mlflow_run for run in staying} | {version.run_id for version in versions if version.stays}
    at_work, name = working(checkout), params.registration.name
    return Plan(
        refs=refs,
        worktrees=orphaned_workspaces(checkout),
        checkpoints=stale_checkpoints(checkout, days),
        versions=sorted(_versions(refs, name) & {version.version for version in versions if not version.stays} - _versions(staying, name)),
        mlflow_runs=sorted({run.mlflow_run for run in refs if run.mlflow_run} - needed),
        flow_runs=prefect_runs.ended_before(datetime.now(UTC) - timedelta(days=days)),
        cache_files=0 if at_work else dvc_cache.collect_garbage(checkout, [run.commit for run in staying], dry=True),
        working=at_work,
    )


def carry_out(plan: Plan, checkout: Path) -> None:
    """Removes what the plan names. It can be repeated after an interruption, since references are removed after their targets."""
    params = load_params(checkout / "params.yaml")
    remove_orphaned_workspaces(checkout)
    for folder in plan.checkpoints:
        shutil.rmtree(folder, ignore_errors=True)
    _collect_mlflow(params, checkout, remove(params, plan.versions, plan.mlflow_runs))
    prefect_runs.delete(plan.flow_runs)
    for run in plan.refs:
        if params.runs.push:
            with suppress(RunError):  # it may not have been pushed; an unreachable remote keeps the ref
                git(checkout, "push", "--quiet", params.runs.push, f":{run.ref}")
        pushing.delete_refs(checkout, run)
    with waiting_lock(checkout / GATE, lambda: None):
        if not working(checkout):
            dvc_cache.collect_garbage(checkout, [run.commit for run in saved_runs(checkout)], dry=False)


def runs_to_remove(runs: list[Run], versions: list[Registered], keep: int) -> list[Run]:
    """Returns the runs that are neither among the newest `keep` nor the origin of a version that stays. `runs` has the newest first."""
    staying = {version.version for version in versions if version.stays}
    return [run for run in runs[keep:] if run.registration is None or run.registration.version not in staying]


def stale_checkpoints(checkout: Path, days: int) -> list[Path]:
    """Returns checkpoint folders of trainings that were interrupted and not resumed for `days`. (Finished trainings remove older ones.)"""
    oldest = time.time() - days * DAY_SECONDS
    folders = (Workspace(checkout).work / "checkpoints").glob("*/")
    return sorted(folder for folder in folders if not (folder / "finished").exists() and _newest_change(folder) < oldest)


def _newest_change(folder: Path) -> float:
    """Returns when a training last wrote or removed a file, in seconds since 1970; now if it removes one meanwhile."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except FileNotFoundError:
        return time.time()


def _versions(runs: list[Run], name: str) -> set[int]:
    return {run.registration.version for run in runs if run.registration is not None and run.registration.name == name}


def _collect_mlflow(params: Params, checkout: Path, run_ids: list[str]) -> None:
    """Frees the storage of deleted runs with `mlflow gc`. It needs direct access to the store, so a server's operator must run it there."""
    address = tracking_uri(params)
    if not run_ids or address.startswith(("http://", "https://")):
        return
    # Everybody on the machine can read a command line, and the address may have a password. mlflow has no variable for its store.
    arguments = f"'--backend-store-uri', os.environ['{STORE}'], '--run-ids', os.environ['{RUNS}']"
    program = f"import os; from mlflow.cli import cli; cli(['gc', {arguments}])"
    for first in range(0, len(run_ids), RUNS_AT_ONCE):
        batch = ",".join(run_ids[first : first + RUNS_AT_ONCE])
        output_of([sys.executable, "-c", program], folder=checkout, environment={STORE: address, RUNS: batch})
