"""The failures of ranks. Each rank writes its failure to a file, and the launcher prints the cause once.

Only the first rank to fail has the cause. The others fail because they lose their connection to it, so no rank prints.
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

from reelnest.atomic_files import write_json
from reelnest.errors import ReelnestError, storage_problem

FOLDER_VARIABLE = "REELNEST_FAILURES"
"""Environment variable with the folder into which ranks write. The launcher sets it; in a cluster's job, the job does."""
NODE_VARIABLE = "REELNEST_NODE"
"""Environment variable with the number of this node in a cluster's job."""
BEAT_SECONDS = 5.0
"""How often a node of a job shows that it runs."""
UNREPORTED_STATUS = os.EX_IOERR
"""The status of a node of a job that cannot write how its ranks ended, such as on a full disk."""
ERRORS = Path("work/errors")
"""Folder for the tracebacks of unexpected errors."""
MOST_FILES = 20
MOST_CHARACTERS = 300


@dataclass(frozen=True)
class Failure:
    """An error that ended a rank, or the launcher itself."""

    rank: int
    seconds: float
    """The time of the failure, as `time.time()`. The earliest failure is the cause of the others."""
    status: int
    text: str
    traceback: str | None
    """None for an error that the user can fix."""

    @classmethod
    def of(cls, error: Exception, rank: int) -> "Failure":
        """Returns the failure for an exception that is being handled."""
        if isinstance(error, ReelnestError):
            return cls(rank, time.time(), error.exit_status, str(error), None)
        if text := storage_problem(error):
            return cls(rank, time.time(), 1, text, None)
        first_line = (str(error).splitlines() or [""])[0][:MOST_CHARACTERS]
        return cls(rank, time.time(), 1, f"{type(error).__name__}: {first_line}", traceback.format_exc())

    def write(self, folder: Path) -> None:
        """Writes the failure to a file that the launcher reads."""
        (folder / f"{self.rank}.json").write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True)
class Outcome:
    """How the ranks of one launcher ended."""

    statuses: Mapping[int, int]
    """The exit status of each failed rank, -n for signal n. Empty if no rank failed."""
    received: str | None = None
    """The signal that the launcher forwarded to them, if it ended them."""

    @property
    def succeeded(self) -> bool:
        """Whether all ranks did their work."""
        return not self.statuses and self.received is None

    def write(self, folder: Path, node: int) -> None:
        """Writes the outcome of a node to a file that its job reads."""
        write_json(folder / f"node-{node}.json", asdict(self))


def beat_file(folder: Path, node: int) -> Path:
    """Returns the file that changes while a node of a job runs."""
    return folder / f"alive-{node}"


def read_outcomes(folder: Path) -> dict[int, Outcome]:
    """Reads the outcomes of the nodes whose ranks have ended, by node."""
    outcomes = {}
    for path in folder.glob("node-*.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        statuses = {int(rank): status for rank, status in values["statuses"].items()}
        outcomes[int(path.stem.removeprefix("node-"))] = Outcome(statuses, values["received"])
    return outcomes


def read_failures(folder: Path) -> list[Failure]:
    """Reads the failures that ranks wrote, the earliest first. Skips a file whose rank was killed while it wrote."""
    failures = []
    for path in folder.glob("*.json"):
        try:
            failures.append(Failure(**json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError):
            continue
    return sorted(failures, key=lambda failure: failure.seconds)


def cause_of(failures: list[Failure], statuses: Mapping[int, int], name: str) -> Failure:
    """Returns the failure that caused a launch to fail: a rank that was ended by a signal, or else the earliest error.

    `statuses` are the exit statuses of the failed ranks, -n for signal n. SIGTERM is not a cause if a rank wrote an error, because torch's
    launcher then sends it to the other ranks.
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
        text += " The kernel does this when memory runs out. `reelnest memory` estimates the memory of a training."
    return Failure(rank, time.time(), 128 - status, text, None)


def result_of(name: str, outcome: Outcome, failures: list[Failure], root: Path) -> tuple[int, str]:
    """Returns the exit status of a launch, and the text to print about it: an error, that it was interrupted, or nothing."""
    if outcome.succeeded:
        return 0, ""
    if outcome.received is not None and not failures:
        number = signal.Signals[outcome.received]
        return 128 + number, interrupted_text(name, number)
    # A rank that was killed after a signal is no cause: the launcher killed it.
    failure = failures[0] if outcome.received is not None else cause_of(failures, outcome.statuses, name)
    return failure.status, message(failure, name, root)


def interrupted_text(name: str, number: signal.Signals) -> str:
    """Returns the text to print if a signal ended a stage before it could save."""
    return f"reelnest: {name} was interrupted ({number.name}). The same command starts it again."


def message(failure: Failure, name: str, root: Path) -> str:
    """Returns the text to print for a failure, in at most two lines. The traceback of an unexpected error goes to a file below `root`."""
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
    # Resolved, because a deployment runs in a temporary folder whose work/errors is a link to the checkout's.
    return "\n".join([*lines, f"Its traceback is in {path.resolve()}"])
