"""The folders of runs under `work/runs/`: which are at work, which are orphaned, and removing those.

A run holds the lock of its folder. An orphaned folder is one whose run was killed: nobody holds its lock.
"""

import contextlib
import hashlib
import shutil
from pathlib import Path

from reelnest.errors import RunError
from reelnest.git import git
from tasks.process.locks import lock_or_none

RUNS = Path("work/runs")
ID_DIGITS = 12


def run_id(flow_run: str) -> str:
    """A run's id, from its flow run's: short enough to type.

    A digest of the whole id. Prefect makes ids by time (UUIDv7): the first twelve digits of all runs that its scheduler makes in one
    millisecond are the same.
    """
    return hashlib.sha256(flow_run.encode()).hexdigest()[:ID_DIGITS]


def remove_orphaned_workspaces(checkout: Path) -> list[str]:
    """Removes the orphaned worktrees, and never a running run's. Returns the runs' ids."""
    removed = []
    for folder in orphaned_workspaces(checkout):
        with lock_or_none(lock_file(checkout, folder.name)) as lock:
            if lock is not None and folder.is_dir():
                remove(checkout, folder)
                removed.append(folder.name)
    return removed


def orphaned_workspaces(checkout: Path) -> list[Path]:
    """Returns the worktrees whose run was killed."""
    return [folder for folder in sorted((checkout / RUNS).glob("*/")) if not _is_locked(lock_file(checkout, folder.name))]


def working(checkout: Path) -> list[str]:
    """Returns the ids of the runs that are at work."""
    return [folder.name for folder in sorted((checkout / RUNS).glob("*/")) if _is_locked(lock_file(checkout, folder.name))]


def _is_locked(path: Path) -> bool:
    with lock_or_none(path) as lock:
        return lock is None


def lock_file(checkout: Path, run: str) -> Path:
    """Returns the lock that a run holds while it works."""
    return checkout / RUNS / f"{run}.lock"


def remove(checkout: Path, folder: Path) -> None:
    """Removes a run's worktree and its lock."""
    # The folder first: git refuses a worktree that a kill left half made, but forgets one that is gone. Links are not followed.
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(RunError):  # git may not know it
        git(checkout, "worktree", "remove", "--force", "--force", str(folder))
    lock_file(checkout, folder.name).unlink(missing_ok=True)
