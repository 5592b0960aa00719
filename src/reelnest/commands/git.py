"""git, as the runs' refs need it: no hooks, no questions, nothing of the caller's branch."""

import subprocess
from pathlib import Path

from reelnest.errors import RunError

TIMEOUT_SECONDS = 600
# A hook of the team's (`dvc install` adds one that checks data out) would act on a worktree that is none of theirs. A run's commit is a
# machine's: it needs no name and no key of whoever started the worker.
QUIET = ("-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false", "-c", "user.name=reelnest", "-c", "user.email=reelnest@localhost")


def git(folder: Path, *arguments: str, text: str | None = None) -> str:
    """Runs a git command in `folder`, with `text` on its standard input, and returns what it printed. Raises RunError with its words."""
    command = ["git", *QUIET, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            input=text if text is not None else "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"{folder}: `git {arguments[0]}` could not be run: {error}") from error
    if done.returncode != 0:
        raise RunError(f"{folder}: `git {' '.join(arguments)}` failed: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout
