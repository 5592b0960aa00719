"""Runs `accelerate launch` in this process, forwards signals to the ranks, and prints one readable error.

`reelnest train` and `reelnest evaluate` exec it as `python -m reelnest.launch.launcher GRACE_SECONDS OPTIONS_OF_ACCELERATE... -m
reelnest.launch.rank MODULE`.

1. SIGTERM, SIGHUP or Ctrl-C requests every rank once to stop; a training finishes its step and saves. Ranks that still run after
   GRACE_SECONDS, or at a second Ctrl-C, are killed. (torch's launcher kills them after 30 s. accelerate's does not signal them at all.)
2. When ranks fail, only the cause is printed, and its exit status becomes this process's. Neither accelerate nor torch passes it on.
   As one node of a cluster's job (NODE_VARIABLE, its machine rank), it writes how its ranks ended instead, and the job finds the cause
   among all nodes.
3. When this process is killed, its ranks are killed too (`rank.py`).
"""

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import psutil

from reelnest.errors import ConfigError, storage_problem
from reelnest.launch.failures import (
    BEAT_SECONDS,
    FOLDER_VARIABLE,
    NODE_VARIABLE,
    UNREPORTED_STATUS,
    Failure,
    Outcome,
    beat_file,
    read_failures,
    result_of,
)
from reelnest.launch.rank import LAUNCHER_VARIABLE
from reelnest.launch.stop_signals import handle_stop_signals
from reelnest.launch.usage import append_local

RANK_MODULE = "reelnest.launch.rank"
UNUSED_SIGNAL = "SIGUSR2"
"""The signal that torch's launcher handles instead of SIGTERM and SIGINT. It requires at least one."""


class SignalForwarder:
    """Forwards signals to the ranks."""

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self.received: signal.Signals | None = None
        """The first signal that was forwarded."""

    def install(self) -> None:
        """Forwards the signals from now on."""
        handle_stop_signals(self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        ranks = psutil.Process().children()
        if not ranks:
            self.received = signal.Signals(number)
            raise SystemExit(128 + number)
        if self.received is not None:
            if number == signal.SIGINT:
                _send(ranks, signal.SIGKILL)
            return
        self.received = signal.Signals(number)
        _send(ranks, signal.SIGTERM)
        timer = threading.Timer(self._grace_seconds, _send, (ranks, signal.SIGKILL))
        timer.daemon = True
        timer.start()


def _send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has already ended
            process.send_signal(number)


def main(arguments: Sequence[str]) -> int:
    """Runs the ranks to their end. Returns 0, the status of the rank that caused the failure, or 128 + n if signal n ended the ranks."""
    grace_seconds, *options = arguments
    if NODE_VARIABLE in os.environ:
        options = ["--machine_rank", os.environ[NODE_VARIABLE], *options]
    module = options[options.index(RANK_MODULE) + 1]
    name = module.rpartition(".")[2]
    started = time.monotonic()
    forwarder = SignalForwarder(float(grace_seconds))
    forwarder.install()
    with _failures_folder() as folder:
        os.environ |= {FOLDER_VARIABLE: str(folder), LAUNCHER_VARIABLE: str(os.getpid()), "PET_SIGNALS_TO_HANDLE": UNUSED_SIGNAL}
        statuses: Mapping[int, int] = {}
        received: signal.Signals | None = None
        failures: list[Failure] = []
        try:
            statuses = _run(options)
        except Exception as error:  # noqa: BLE001 -- its traceback is saved
            rank = int(os.environ.get(NODE_VARIABLE, "0"))
            failures = [Failure.of(error, rank)]
            statuses = {rank: failures[0].status}
        except SystemExit:
            received = forwarder.received
            if received is None:
                raise
        if statuses:  # otherwise the ranks had finished before the signal
            received = forwarder.received
        outcome = Outcome(statuses, None if received is None else received.name)
        if NODE_VARIABLE in os.environ:
            return _report(outcome, failures, folder)
        status, text = result_of(name, outcome, [*failures, *read_failures(folder)], Path())
    with contextlib.suppress(OSError):  # a full disk, which is in the text
        append_local(started)
    if text:
        sys.stderr.write(f"{text}\n")
    return status


def _report(outcome: Outcome, failures: Sequence[Failure], folder: Path) -> int:
    """Writes how the ranks of this node ended, for its job. Returns the node's exit status."""
    try:
        for failure in failures:
            failure.write(folder)
        outcome.write(folder.parent, int(os.environ[NODE_VARIABLE]))
    except OSError as error:
        sys.stderr.write(f"reelnest: error: {storage_problem(error) or error}\n")
        return UNREPORTED_STATUS
    return 0 if outcome.succeeded else 1


@contextlib.contextmanager
def _failures_folder() -> Iterator[Path]:
    """The folder for the failures of ranks: a temporary one, or that of all nodes of a job, where the job reads them."""
    if NODE_VARIABLE in os.environ:
        shared = Path(os.environ[FOLDER_VARIABLE])
        file = beat_file(shared.parent, int(os.environ[NODE_VARIABLE]))
        threading.Thread(target=_beat, args=(file,), name="beat", daemon=True).start()
        yield shared
        return
    with TemporaryDirectory(prefix="reelnest-failures-") as folder:
        yield Path(folder)


def _beat(file: Path) -> None:
    """Shows the job that this node runs. SLURM does not notice the loss of a node that comes back at once."""
    while True:
        with contextlib.suppress(OSError):  # a full disk, which the ranks report
            file.touch()
        time.sleep(BEAT_SECONDS)


def _run(options: Sequence[str]) -> Mapping[int, int]:
    """Returns the exit statuses of the failed ranks, by rank."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    parsed = _parse(launch_command_parser(), options)
    logging.disable(logging.ERROR)  # silences torch's own reports on failed ranks
    try:
        launch_command(parsed)
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    except subprocess.CalledProcessError as error:
        return {0: error.returncode}
    return {}


def _parse(parser: object, options: Sequence[str]) -> Namespace:
    """Parses accelerate's options without printing its usage. Raises ConfigError."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            parsed: Namespace = parser.parse_args(list(options))  # type: ignore[attr-defined]  # accelerate's parser has no types
    except SystemExit as error:
        if not error.code:
            raise
        reason = printed.getvalue().rpartition("error: ")[2].strip()
        raise ConfigError(f"accelerate launch: {reason}. `accelerate launch --help` lists its options.") from None
    if parsed.training_script != RANK_MODULE:
        raise ConfigError(
            f"accelerate launch: unexpected argument: {parsed.training_script}. `accelerate launch --help` lists its options."
        )
    return parsed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
