"""Pushes completed runs to the remotes that `runs` in params.yaml names.

An unpushed run has a second ref, `refs/reelnest/unpushed/<id>`, which is created together with its ref. A push includes all of these runs
and removes their second refs, so the push of the next run makes up for one that failed.
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
    """Creates the run's ref and its unpushed ref in one transaction.

    Existing refs are not moved. Raises RunError if one exists or git fails.
    """
    git(folder, "update-ref", "--stdin", text=f"create {run.ref} {run.commit}\ncreate {UNPUSHED}{run.id} {run.commit}\n")


def delete_refs(folder: Path, run: Run) -> None:
    """Deletes both refs of a run."""
    git(folder, "update-ref", "--stdin", text=f"delete {UNPUSHED}{run.id}\ndelete {run.ref} {run.commit}\n")


def check_remotes(folder: Path, settings: Runs) -> None:
    """Raises RunError if a remote in the settings does not exist, so that this is reported before the training."""
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
    """Pushes all unpushed runs: first their outputs, then their refs. Returns the runs' ids.

    `folder` is the worktree of a run that has just ended, or a checkout. Raises RunError or CommandError if a remote is unreachable or
    rejects a push; the next call pushes what is missing.
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
        with suppress(RunError):  # the first error is the one to report
            _mark_pushed(folder, _accepted(folder, settings.push, waiting))
        raise
    _mark_pushed(folder, waiting)
    return list(waiting)


def _waiting(folder: Path) -> dict[str, str]:
    """Returns the commits of the unpushed runs by id."""
    lines = git(folder, "for-each-ref", "--format=%(refname) %(objectname)", UNPUSHED).splitlines()
    return {ref.removeprefix(UNPUSHED): commit for ref, commit in (line.split(" ") for line in lines)}


def _accepted(folder: Path, remote: str, waiting: dict[str, str]) -> list[str]:
    """Returns the runs that the remote has after a failed push, since it may reject only some refs."""
    present = set(git(folder, "ls-remote", remote, f"{REFS}*").splitlines())
    return [run for run, commit in waiting.items() if f"{commit}\t{REFS}{run}" in present]


def _mark_pushed(folder: Path, runs: Iterable[str]) -> None:
    git(folder, "update-ref", "--stdin", text="".join(f"delete {UNPUSHED}{run}\n" for run in runs))
