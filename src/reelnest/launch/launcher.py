"""`accelerate launch` in this process, with an end that a user can read.

Usage (`reelnest train` and `evaluate` become it): `python -m reelnest.launch.launcher GRACE_SECONDS OPTIONS_OF_ACCELERATE... -m
reelnest.launch.rank MODULE`

1. SIGTERM, SIGHUP or Ctrl-C asks every rank once to stop: a training finishes its step and saves. Ranks that still run after
   GRACE_SECONDS, or at a second Ctrl-C, are killed. (torch's launcher would kill them after 30 s, accelerate's would not tell them.)
2. When ranks fail, the cause alone is printed, and its exit status is this process's: neither accelerate nor torch would hand it on.
3. When this process is killed, its ranks die with it (`rank.py`).
"""

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import psutil

from reelnest.errors import ConfigError
from reelnest.launch.failures import FOLDER_VARIABLE, Failure, cause_of, message, read_failures
from reelnest.launch.rank import LAUNCHER_VARIABLE

RANK_MODULE = "reelnest.launch.rank"
NOTHING = "SIGUSR2"
"""What torch's launcher shall handle instead of SIGTERM and SIGINT: it needs one signal at least."""


class Stopping:
    """Hands signals on to the ranks."""

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._asked = False

    def install(self) -> None:
        """Takes over the signals that this process does not ignore (nohup, a shell's background job)."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        ranks = psutil.Process().children()
        if not ranks:
            raise SystemExit(128 + number)
        if self._asked:
            if number == signal.SIGINT:
                _send(ranks, signal.SIGKILL)
            return
        self._asked = True
        _send(ranks, signal.SIGTERM)
        timer = threading.Timer(self._grace_seconds, _send, (ranks, signal.SIGKILL))
        timer.daemon = True
        timer.start()


def _send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):  # ended by itself
            process.send_signal(number)


def main(arguments: Sequence[str]) -> int:
    """Runs the ranks to their end. Returns 0, or the status of the rank whose failure was the cause, 128 + n after signal n."""
    grace_seconds, *options = arguments
    module = options[options.index(RANK_MODULE) + 1]
    name = module.rpartition(".")[2]
    Stopping(float(grace_seconds)).install()
    with TemporaryDirectory(prefix="reelnest-failures-") as folder:
        os.environ |= {FOLDER_VARIABLE: folder, LAUNCHER_VARIABLE: str(os.getpid()), "PET_SIGNALS_TO_HANDLE": NOTHING}
        try:
            statuses = _run(options)
        except Exception as error:  # noqa: BLE001 -- whatever it is, its traceback is kept
            failure = Failure.of(error, rank=0)
        else:
            if not statuses:
                return 0
            failure = cause_of(read_failures(Path(folder)), statuses, name)
    sys.stderr.write(f"{message(failure, name, Path())}\n")
    return failure.status


def _run(options: Sequence[str]) -> Mapping[int, int]:
    """Returns the statuses of the ranks that failed; none where all succeeded."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    parsed = _parse(launch_command_parser(), options)
    logging.disable(logging.ERROR)  # the reports of torch's launcher on ranks that failed
    try:
        launch_command(parsed)
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    except subprocess.CalledProcessError as error:
        return {0: error.returncode}
    return {}


def _parse(parser: object, options: Sequence[str]) -> Namespace:
    """Parses accelerate's options without its page of usage. Raises ConfigError."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            parsed: Namespace = parser.parse_args(list(options))  # type: ignore[attr-defined]
    except SystemExit as error:
        if not error.code:
            raise
        reason = printed.getvalue().rpartition("error: ")[2].strip()
        raise ConfigError(f"accelerate launch: {reason}. `accelerate launch --help` lists its options.") from None
    return parsed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
