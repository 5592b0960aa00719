"""Pushes completed runs to the remotes that `runs` in params.yaml names.

A run that was not pushed yet has a second ref, `refs/reelnest/unpushed/<id>`, made together with its own. A push takes all of these runs,
so one that failed (a night without a network) is made up for by the next run's, and removes their second refs.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from reelnest.commands.runs import REFS, Run
from reelnest.errors import RunError
from reelnest.git import git
from reelnest.settings import Runs
from tasks.process import dvc_cache

UNPUSHED = "refs/reelnest/unpushed/"


def create_refs(folder: Path, run: Run) -> None:
    """Creates the run's ref, and the one that says that it has to be pushed, both or none.

    A ref that exists is not moved. Raises RunError where it exists, or git fails.
    """
    git(folder, "update-ref", "--stdin", text=f"create {run.ref} {run.commit}\ncreate {UNPUSHED}{run.id} {run.commit}\n")


def delete_refs(folder: Path, run: Run) -> None:
    """Deletes both refs of a run."""
    git(folder, "update-ref", "--stdin", text=f"delete {UNPUSHED}{run.id}\ndelete {run.ref} {run.commit}\n")


def check_remotes(folder: Path, settings: Runs) -> None:
    """Raises RunError where a remote that the settings name does not exist: better before a training than after it."""
    if settings.push is None:
        return
    known = git(folder, "remote").split()
    if settings.push not in known:
        raise RunError(f"params.yaml: runs.push: there is no git remote '{settings.push}'; known: {', '.join(known) or 'none'}.")
    remotes = dvc_cache.remotes(folder)
    if settings.push_outputs is not None and settings.push_outputs not in remotes:
        raise RunError(
            f"params.yaml: runs.push_outputs: there is no DVC remote '{settings.push_outputs}'; known: {', '.join(remotes) or 'none'}."
        )


def push(folder: Path, settings: Runs) -> list[str]:
    """Pushes all runs that were not pushed yet: first their outputs, then the refs that name these. Returns the runs' ids.

    `folder` is the worktree of a run that has just ended, or a checkout. Raises RunError or CommandError where a remote is away or
    refuses: what it did not take is pushed by the next call.
    """
    if settings.push is None:
        return []
    waiting = _waiting(folder)
    if settings.push_outputs is not None or dvc_cache.has_remote(folder):
        dvc_cache.push(folder, settings.push_outputs)
        dvc_cache.push_commits(folder, list(waiting.values()), settings.push_outputs)
    try:
        git(folder, "push", "--quiet", settings.push, *(f"{REFS}{run}:{REFS}{run}" for run in waiting))
    except RunError:
        with suppress(RunError):  # it is the first error that counts
            _mark_pushed(folder, _taken(folder, settings.push, waiting))
        raise
    _mark_pushed(folder, waiting)
    return list(waiting)


def _waiting(folder: Path) -> dict[str, str]:
    """The commits of the runs that were not pushed yet, by id."""
    lines = git(folder, "for-each-ref", "--format=%(refname) %(objectname)", UNPUSHED).splitlines()
    return {ref.removeprefix(UNPUSHED): commit for ref, commit in (line.split(" ") for line in lines)}


def _taken(folder: Path, remote: str, waiting: dict[str, str]) -> list[str]:
    """Those that the remote has after a push that failed: it refuses refs one by one."""
    there = set(git(folder, "ls-remote", remote, f"{REFS}*").splitlines())
    return [run for run, commit in waiting.items() if f"{commit}\t{REFS}{run}" in there]


def _mark_pushed(folder: Path, runs: Iterable[str]) -> None:
    git(folder, "update-ref", "--stdin", text="".join(f"delete {UNPUSHED}{run}\n" for run in runs))
