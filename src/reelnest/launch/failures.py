"""What went wrong in a rank, written by the rank and printed once by its launcher.

Each rank of a failed launch fails in its own way: the first has the cause, the others lose their connection to it. So no rank prints.
"""

import json
import os
import signal
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from reelnest.errors import ReelnestError

FOLDER_VARIABLE = "REELNEST_FAILURES"
"""Environment variable: the folder into which ranks write; the launcher sets it."""
ERRORS = Path("work/errors")
"""Tracebacks of unexpected errors, for whoever mends them."""
MOST_FILES = 20
MOST_CHARACTERS = 300


@dataclass(frozen=True)
class Failure:
    """An error that ended a rank, or the launcher itself."""

    rank: int
    seconds: float
    """When, as `time.time()`: the earliest failure is the cause of the others."""
    status: int
    text: str
    traceback: str | None
    """None for an error that the user can act on."""

    @classmethod
    def of(cls, error: Exception, rank: int) -> "Failure":
        """Describes an exception that is being handled."""
        if isinstance(error, ReelnestError):
            return cls(rank, time.time(), error.exit_status, str(error), None)
        first_line = (str(error).splitlines() or [""])[0][:MOST_CHARACTERS]
        return cls(rank, time.time(), 1, f"{type(error).__name__}: {first_line}", traceback.format_exc())

    def write(self, folder: Path) -> None:
        """Leaves the failure for the launcher."""
        (folder / f"{self.rank}.json").write_text(json.dumps(asdict(self)), encoding="utf-8")


def read_failures(folder: Path) -> list[Failure]:
    """Returns what ranks wrote, the earliest first. A file that a rank was killed at is left out."""
    failures = []
    for path in folder.glob("*.json"):
        try:
            failures.append(Failure(**json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError):
            continue
    return sorted(failures, key=lambda failure: failure.seconds)


def cause_of(failures: list[Failure], statuses: Mapping[int, int], name: str) -> Failure:
    """Returns the failure that ended a launch: a rank that a signal ended, or else the earliest error.

    `statuses` are those of ranks that failed, -n for signal n. SIGTERM is no cause where a rank wrote an error: torch's launcher sends it
    to the other ranks then.
    """
    killed = {rank: -status for rank, status in statuses.items() if status < 0 and status != -signal.SIGTERM}
    if failures and not killed:
        return failures[0]
    rank = min(killed or statuses)
    status = statuses[rank]
    if status >= 0:
        return Failure(rank, time.time(), status, f"{name}: rank {rank} ended with status {status}.", None)
    text = f"{name}: rank {rank} was ended by {signal.Signals(-status).name}."
    if status == -signal.SIGKILL:
        text += " The kernel does that when memory runs out; `reelnest memory` estimates what a training needs."
    return Failure(rank, time.time(), 128 - status, text, None)


def message(failure: Failure, name: str, root: Path) -> str:
    """Returns what to print of a failure, in two lines at most for an unexpected error, whose traceback goes into a file below `root`."""
    if failure.traceback is None:
        return f"reelnest: error: {failure.text}"
    at = datetime.fromtimestamp(failure.seconds, UTC).strftime("%Y%m%d-%H%M%S")
    path = root / ERRORS / f"{name}-{at}-{os.getpid()}-rank{failure.rank}.txt"
    lines = [f"reelnest: error: {name}, rank {failure.rank}: {failure.text}"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in sorted(path.parent.glob("*.txt"), key=lambda file: file.stat().st_mtime)[: -MOST_FILES + 1]:
            old.unlink(missing_ok=True)
        path.write_text(failure.traceback, encoding="utf-8")
    except OSError as error:  # a full disk may be the failure itself
        return "\n".join([*lines, f"Its traceback cannot be written to {path} ({error.strerror}):", failure.traceback])
    # Resolved, since a deployment's run works in a folder that is removed, whose work/errors is a link to the checkout's.
    return "\n".join([*lines, f"Its traceback is in {path.resolve()}"])
