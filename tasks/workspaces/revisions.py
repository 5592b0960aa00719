"""Resolves revisions of the checkout's repository to commits, and reads the settings of a commit."""

import contextlib
import re
from pathlib import Path

from reelnest.errors import RunError
from reelnest.git import git
from tasks.workspaces.params_text import ParamsText

COMMIT = re.compile(r"[0-9a-f]{40}")
"""A full hash, as in the event that `reelnest data push` emits on another machine."""


def git_remote(checkout: Path) -> str | None:
    """Returns the remote for fetching commits and pushing data versions: `origin`, or else the only remote."""
    remotes = git(checkout, "remote").split()
    return "origin" if "origin" in remotes else remotes[0] if len(remotes) == 1 else None


def check_checkout(checkout: Path) -> None:
    """Raises RunError if the folder is not the top folder of its repository, in which deployments run."""
    top = Path(git(checkout, "rev-parse", "--show-toplevel").strip())
    if top.resolve() != checkout:
        raise RunError(f"{checkout} is a subfolder of the repository {top}. Deploy from the repository's top folder.")


def commit_of(checkout: Path, revision: str) -> str:
    """Returns the commit of a revision. A remote's branch, or a commit that is missing here, is fetched first."""
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
            f"revision: {checkout} has no commit '{revision}'. Expected a branch, tag, commit, or remote branch such as origin/main."
        ) from None


def params_at(folder: Path, commit: str) -> ParamsText:
    """Returns the settings of a commit. Raises RunError if it has none."""
    try:
        text = git(folder, "show", f"{commit}:params.yaml")
    except RunError:
        raise RunError(f"revision: commit {commit[:12]} has no params.yaml. Choose a commit of this project that has one.") from None
    return ParamsText(text, commit)
