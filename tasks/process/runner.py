"""Runs commands so that no process is left behind, and passes their output lines on while they run.

Every command gets a new session, a mark in its environment and a guard (see `guard.py`). When the caller returns, raises, is cancelled or
dies, all processes with the mark are ended, in whatever session they are.

Killing the caller does not shorten their grace period: Prefect kills the process of a cancelled flow 30 s after SIGTERM and has no setting
for it, but the guard runs in its own session. Until it has finished, `locks.py` treats the caller's locks as held.
"""

import os
import queue
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from reelnest.launch.quiet import QUIET as LIBRARY_QUIET
from tasks.process.guard import MARKS, end_marked
from tasks.process.quiet_logs import quieten_logs

GUARD = Path(__file__).with_name("guard.py")
GRACE_SECONDS = 10.0
"""Time between SIGTERM and SIGKILL for a command that saves nothing. A stage gets `launch.grace_seconds` (`dvc.grace_seconds`)."""
TAIL_LINES = 20
TICK_SECONDS = 2.0

QUIET = LIBRARY_QUIET | {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "PYTHONUNBUFFERED": "1",
}
"""The library's settings, and those for tools that only orchestration uses."""


class CommandError(Exception):
    """A command ended with a status other than 0. The text has the status and the command's last lines."""

    def __init__(self, argv: Sequence[str], status: int, tail: Iterable[str]) -> None:
        self.argv, self.status, self.tail = tuple(argv), status, tuple(tail)
        lines = "\n".join(f"  {line}" for line in self.tail) or "  (it printed nothing)"
        super().__init__(f"`{shlex.join(argv)}` {describe_status(status)}. Its last lines:\n{lines}")


def describe_status(status: int) -> str:
    """Returns an exit status in words; 128 + n means signal n, as in a shell."""
    return f"was ended by signal {status - 128}" if is_signal(status) else f"ended with status {status}"


def is_signal(status: int) -> bool:
    """Returns whether a status means a signal. 255 does not: programs use it for errors (DVC for every failed stage)."""
    return 128 < status <= 128 + max(signal.Signals)


def quieten() -> None:
    """Sets the variables of `QUIET` that are not set, for this process and those that it starts, and filters Prefect's logs."""
    quieten_logs()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def python_module(name: str) -> tuple[str, ...]:
    """Returns the command that runs a module of the running interpreter."""
    return (sys.executable, "-m", name)


def setting(name: str) -> str | None:
    """Returns a variable of the environment; None if it is missing or empty. (Orchestration reads the environment only here.)"""
    return os.environ.get(name) or None


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for this process and those that it starts, until the block ends."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def command_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment for a child: quiet, and with the running interpreter's programs (`dvc`, `reelnest`) first on PATH."""
    environment = {**QUIET, **os.environ, **(extra or {})}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    return environment


class Command:
    """A running command, as a context manager: leaving it ends the command and every process that it started.

    Standard error is read together with standard output. Bytes that are not UTF-8 become replacement characters.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self.argv = tuple(argv)
        self.mark = secrets.token_hex(16)
        self._grace_seconds = grace_seconds
        variables = command_environment(environment)
        variables[MARKS] = ":".join(filter(None, [variables.get(MARKS), self.mark]))
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # -P keeps the guard's folder off its path, where the names of our modules could hide others.
        self._guard = subprocess.Popen(
            [sys.executable, "-P", str(GUARD), self.mark, str(grace_seconds), *self.argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=variables,
            start_new_session=True,
        )
        assert self._guard.stdout is not None  # noqa: S101 -- for the type checker: stdout is PIPE
        self._reader = threading.Thread(target=_read, args=(self._guard.stdout, self._lines), daemon=True)
        self._reader.start()

    def line(self, timeout_seconds: float) -> str | None:
        """Returns the next line, or None if none comes in time."""
        try:
            return self._lines.get(timeout=timeout_seconds)
        except queue.Empty:
            return None

    @property
    def status(self) -> int | None:
        """The exit status (128 + n after signal n), or None while it runs."""
        return self._guard.poll()

    def stop(self) -> None:
        """Ends the command and every process that it started, if they still run."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()  # stops the guard
        try:
            self._guard.wait(self._grace_seconds + 2)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        # Only needed if the guard itself was killed.
        end_marked(self.mark, self._grace_seconds)
        self._reader.join(timeout=1)
        if not self._reader.is_alive() and self._guard.stdout is not None:
            self._guard.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()


def run(
    argv: Sequence[str],
    *,
    on_line: Callable[[str], None],
    on_tick: Callable[[], None] | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> None:
    """Runs a command to its end.

    Calls `on_line` with each line as it comes, and `on_tick` every two seconds and once at the end.

    Raises:
        CommandError: The status is not 0.
        TimeoutError: It took longer than `timeout_seconds` and was ended.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    started = last_tick = time.monotonic()

    def take(line: str) -> None:
        tail.append(line)
        on_line(line)

    with Command(argv, folder=folder, environment=environment, grace_seconds=grace_seconds) as command:
        # Short waits, because exceptions that Prefect raises in this thread are only delivered between two of them.
        while command.status is None:
            if (line := command.line(timeout_seconds=0.2)) is not None:
                take(line)
            now = time.monotonic()
            if timeout_seconds is not None and now - started > timeout_seconds:
                raise TimeoutError(f"`{shlex.join(argv)}` took longer than {timeout_seconds:g} s and was ended.")
            if on_tick is not None and now - last_tick >= TICK_SECONDS:
                last_tick = now
                on_tick()
        while (line := command.line(timeout_seconds=0.5)) is not None:
            take(line)
        status = command.status
    if on_tick is not None:
        on_tick()
    if status != 0:
        raise CommandError(argv, status, list(tail))


def output_of(
    argv: Sequence[str], *, folder: Path | None = None, environment: Mapping[str, str] | None = None, timeout_seconds: float | None = None
) -> list[str]:
    """Runs a short command and returns its lines. Raises as `run` does."""
    lines: list[str] = []
    run(argv, on_line=lines.append, folder=folder, environment=environment, timeout_seconds=timeout_seconds)
    return lines


def _read(stream: IO[bytes], lines: queue.SimpleQueue[str | None]) -> None:
    """Puts a stream's lines on the queue, then None. Text overwritten by a carriage return (progress bars) is dropped, as in a terminal."""
    for raw in stream:
        states = [state for state in raw.decode("utf-8", errors="replace").rstrip("\r\n").split("\r") if state.strip()]
        lines.put(states[-1].rstrip() if states else "")
    lines.put(None)
