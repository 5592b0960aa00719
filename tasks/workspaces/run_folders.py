"""The folders of runs in `work/runs/`: finds active and orphaned ones, and removes the orphaned ones.

A run holds the lock of its folder. A folder is orphaned if no process holds its lock, because its run was killed.
"""

import contextlib
import hashlib
import logging
import shutil
from pathlib import Path

from reelnest.errors import ReelnestError, RunError
from reelnest.git import git
from reelnest.launch.jobs.follower import end_jobs_of
from tasks.process.locks import lock_or_none

RUNS = Path("work/runs")
ID_DIGITS = 12

log = logging.getLogger(__name__)


def run_id(flow_run: str) -> str:
    """Returns a short id for a run, derived from its flow run's id.

    It is a digest of the full id, because Prefect's ids start with the time (UUIDv7): runs that its scheduler creates in the same
    millisecond share their first twelve digits.
    """
    return hashlib.sha256(flow_run.encode()).hexdigest()[:ID_DIGITS]


def remove_orphaned_workspaces(checkout: Path) -> list[str]:
    """Removes the orphaned worktrees, but never that of an active run. Returns the runs' ids.

    Jobs that still run in one on a cluster are ended first. If that is not possible now, the worktree stays until the next call.
    """
    removed = []
    for folder in orphaned_workspaces(checkout):
        with lock_or_none(lock_file(checkout, folder.name)) as lock:
            if lock is not None and folder.is_dir() and _has_no_job(folder):
                remove(checkout, folder)
                removed.append(folder.name)
    return removed


def _has_no_job(folder: Path) -> bool:
    try:
        return end_jobs_of(folder)
    except ReelnestError as error:
        log.warning("The worktree %s of a killed run is not removed yet, because a job may run in it. %s", folder, error)
        return False


def orphaned_workspaces(checkout: Path) -> list[Path]:
    """Returns the worktrees of killed runs."""
    return [folder for folder in sorted((checkout / RUNS).glob("*/")) if not _is_locked(lock_file(checkout, folder.name))]


def working(checkout: Path) -> list[str]:
    """Returns the ids of the active runs."""
    return [folder.name for folder in sorted((checkout / RUNS).glob("*/")) if _is_locked(lock_file(checkout, folder.name))]


def _is_locked(path: Path) -> bool:
    with lock_or_none(path) as lock:
        return lock is None


def lock_file(checkout: Path, run: str) -> Path:
    """Returns the lock that a run holds while it works."""
    return checkout / RUNS / f"{run}.lock"


def remove(checkout: Path, folder: Path) -> None:
    """Removes a run's worktree and its lock."""
    # The folder first: git refuses to remove an incomplete worktree, but forgets one without a folder. Links are not followed.
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(RunError):  # git may not have registered it
        git(checkout, "worktree", "remove", "--force", "--force", str(folder))
    lock_file(checkout, folder.name).unlink(missing_ok=True)
