"""Runs git without hooks and without commit signing."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from reelnest.errors import RunError

TIMEOUT_SECONDS = 600
# The team's hooks (`dvc install` adds one that checks data out) must not run in a run's worktree. A run's commit is made by a machine, so
# it has neither the name nor the key of the user who started the worker.
CONFIG = ("core.hooksPath=/dev/null", "commit.gpgSign=false", "user.name=reelnest", "user.email=reelnest@localhost")


def git(folder: Path, *arguments: str, text: str = "") -> str:
    """Runs a git command in `folder`, with `text` as standard input, and returns its output. Raises RunError with its error message."""
    return git_bytes(folder, *arguments, stdin=text.encode()).decode(errors="replace")


def git_bytes(folder: Path, *arguments: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None) -> bytes:
    """Runs git like `git`, with binary input and output. `environment` is added to this process's environment."""
    try:
        done = subprocess.run(
            ["git", *(word for option in CONFIG for word in ("-c", option)), *arguments],
            cwd=folder,
            input=stdin,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"{folder}: `git {arguments[0]}` could not be run: {error}") from error
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip() or f"status {done.returncode}"
        if "not a git repository" in message:
            raise RunError(
                f"{folder.absolute()} is not in a git repository. Run this in a clone of the project, or make one here with `git init`."
            )
        raise RunError(f"{folder}: `git {' '.join(arguments)}` failed: {message}")
    return done.stdout


def uncommitted(folder: Path, *names: str) -> list[str]:
    """Returns which files under `names` differ from the last commit, new files included. Raises RunError outside a repository."""
    lines = git(folder, "status", "--porcelain", "--untracked-files=all", "--", *names).splitlines()
    return [line[3:] for line in lines]
