"""Stands between the runner and a command, so that the command never outlives whoever asked for it.

Usage (the runner's, not a person's): `python guard.py MARK GRACE_SECONDS COMMAND ARGUMENT...`

The guard ends everything that carries the mark in its environment as soon as one of these happens:

1. the command ends, whatever it left running;
2. the guard gets SIGTERM or SIGINT;
3. the other end of its standard input is closed. The runner holds that end and never writes: when its process dies, however it dies,
   the kernel closes it. (`PR_SET_PDEATHSIG` would not do: it fires when the *thread* that started the child ends.)

A mark, not a process group: torch's elastic launcher puts its workers into sessions of their own, and a dead parent's children are
handed to init. The environment stays with them through both.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

MARKS = "REELNEST_MARKS"
"""Environment variable: the marks of all runners above a process, outermost first, joined by `:`."""
POLL_SECONDS = 0.1
KILL_SECONDS = 10.0
"""How long to wait for processes after SIGKILL: one that hangs in the kernel is not ours to wait for."""


def marked_processes(mark: str) -> list[psutil.Process]:
    """Running processes, other than this one, that carry `mark`. Zombies and other users' processes have no readable environment."""
    marked = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            marks = process.environ().get(MARKS, "")
        except (psutil.Error, OSError):
            continue
        if mark in marks.split(":"):
            marked.append(process)
    return marked


def end_marked(mark: str, grace_seconds: float) -> list[psutil.Process]:
    """Ends every process that carries `mark`: SIGTERM, and SIGKILL to those that still run after `grace_seconds`.

    Looks again until none is left, because a process can start another between the look and the signal. Returns those that even
    SIGKILL did not end.
    """
    asked: set[psutil.Process] = set()
    kill_from = time.monotonic() + grace_seconds
    while left := marked_processes(mark):
        now = time.monotonic()
        if now > kill_from + KILL_SECONDS:
            return left
        for process in left:
            try:
                if now >= kill_from:
                    process.kill()
                elif process not in asked:
                    asked.add(process)
                    process.terminate()
            except psutil.Error:  # ended by itself since the look
                continue
        time.sleep(POLL_SECONDS)
    return []


def main(arguments: Sequence[str]) -> int:
    """Runs the command to its end or to ours. Returns its exit status, 128 + n where signal n ended it."""
    mark, grace_seconds, *command = arguments
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    # Handled, not ignored: what is ignored here would be ignored by the command too, and Prefect's worker ends by a SIGINT to itself.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: cannot be started: {error.strerror}\n")
        return 127
    try:
        while child.poll() is None and not stopped:
            readable, _, _ = select.select([sys.stdin.fileno()], [], [], POLL_SECONDS)
            if readable and not os.read(sys.stdin.fileno(), 1024):
                break
    finally:
        end_marked(mark, float(grace_seconds))
    status = child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
