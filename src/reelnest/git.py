"""git, run without hooks, without questions, and without touching the caller's branch."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from reelnest.errors import RunError

TIMEOUT_SECONDS = 600
# A hook of the team's (`dvc install` adds one that checks data out) would act on a worktree that is none of theirs. A run's commit is a
# machine's: it needs no name and no key of whoever started the worker.
CONFIG = ("core.hooksPath=/dev/null", "commit.gpgSign=false", "user.name=reelnest", "user.email=reelnest@localhost")


def git(folder: Path, *arguments: str, text: str = "") -> str:
    """Runs a git command in `folder`, with `text` on its standard input, and returns what it printed. Raises RunError with its words."""
    return git_bytes(folder, *arguments, given=text.encode()).decode(errors="replace")


def git_bytes(folder: Path, *arguments: str, given: bytes = b"", environment: Mapping[str, str] | None = None) -> bytes:
    """As `git`, for input and output that is no text. `environment` is added to this process's."""
    try:
        done = subprocess.run(
            ["git", *(word for option in CONFIG for word in ("-c", option)), *arguments],
            cwd=folder,
            input=given,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"{folder}: `git {arguments[0]}` could not be run: {error}") from error
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip() or f"status {done.returncode}"
        raise RunError(f"{folder}: `git {' '.join(arguments)}` failed: {words}")
    return done.stdout
