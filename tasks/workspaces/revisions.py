"""Revisions of the checkout's repository: the commit that one stands for, and the settings that a commit holds."""

import contextlib
import re
from pathlib import Path

from reelnest.errors import RunError
from reelnest.git import git
from tasks.workspaces.params_text import ParamsText

COMMIT = re.compile(r"[0-9a-f]{40}")
"""As an event names it that another machine's `reelnest data push` emitted."""


def git_remote(checkout: Path) -> str | None:
    """Where commits are fetched from, and data versions are pushed: `origin`, or else the only remote there is."""
    remotes = git(checkout, "remote").split()
    return "origin" if "origin" in remotes else remotes[0] if len(remotes) == 1 else None


def check_checkout(checkout: Path) -> None:
    """Raises RunError where the folder is not the repository's own, in which deployments work."""
    top = Path(git(checkout, "rev-parse", "--show-toplevel").strip())
    if top.resolve() != checkout:
        raise RunError(
            f"{checkout} is a folder of the repository {top}. A deployment works in the repository's own folder: deploy it from there."
        )


def commit_of(checkout: Path, revision: str) -> str:
    """The commit that a revision stands for; a remote's branch, and a commit that is not here yet, are fetched first."""
    remotes = git(checkout, "remote").split()
    remote, _, branch = revision.partition("/")
    if branch and remote in remotes:
        git(checkout, "fetch", "--quiet", remote)
    name = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    try:
        if COMMIT.fullmatch(revision) and remotes:
            with contextlib.suppress(RunError):
                return git(checkout, *name).strip()
            git(checkout, "fetch", "--quiet", str(git_remote(checkout) or remotes[0]))
        return git(checkout, *name).strip()
    except RunError:
        raise RunError(
            f"revision: {checkout} knows no commit '{revision}'. Expected a branch, a tag or a commit; a remote's branch as origin/main."
        ) from None


def params_at(folder: Path, commit: str) -> ParamsText:
    """The settings that a commit holds. Raises RunError where it holds none."""
    return ParamsText(git(folder, "show", f"{commit}:params.yaml"), commit)
