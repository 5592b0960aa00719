"""Runs between the runner and a command, so that the command never outlives its caller.

Usage, by the runner: `python guard.py MARK GRACE_SECONDS COMMAND ARGUMENT...`

The guard ends every process that has the mark in its environment as soon as one of these happens:

1. The command ends, even if it left processes running.
2. The guard gets SIGTERM or SIGINT.
3. The other end of its standard input is closed. The runner has that end open and never writes; when the runner's process dies, the
   kernel closes it. (`PR_SET_PDEATHSIG` does not work here: it fires when the *thread* that started the child ends.)

A process group would not be enough: torch's elastic launcher starts its workers in new sessions, and the children of a dead parent go to
init. Both keep the environment.
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
"""Environment variable with the marks of all runners above a process, outermost first, joined by `:`."""
POLL_SECONDS = 0.1
KILL_SECONDS = 10.0
"""How long to wait for processes after SIGKILL. A process can hang in the kernel."""


def marked_processes(mark: str) -> list[psutil.Process]:
    """Returns the running processes with `mark`, except this one. Zombies and other users' processes have no readable environment."""
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
    """Ends every process with `mark`: SIGTERM, then SIGKILL for those that still run after `grace_seconds`.

    Repeats until none is left, because a process can start another one before it gets the signal. Returns those that survived SIGKILL.
    """
    signalled: set[psutil.Process] = set()
    kill_from = time.monotonic() + grace_seconds
    while left := marked_processes(mark):
        now = time.monotonic()
        if now > kill_from + KILL_SECONDS:
            return left
        for process in left:
            try:
                if now >= kill_from:
                    process.kill()
                elif process not in signalled:
                    signalled.add(process)
                    process.terminate()
            except psutil.Error:  # it has ended in the meantime
                continue
        time.sleep(POLL_SECONDS)
    return []


def main(arguments: Sequence[str]) -> int:
    """Runs the command until it ends or the guard is stopped. Returns its exit status, 128 + n after signal n."""
    mark, grace_seconds, *command = arguments
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    # Handled, not ignored: the command would inherit an ignored signal, and Prefect's worker ends itself with SIGINT.
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
