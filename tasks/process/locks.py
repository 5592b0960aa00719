"""Locks between runs of this machine. The kernel gives one back when its process dies, however it dies.

What a lock's holder has started may live longer: a stage that saves its checkpoint after its flow was killed. Commands started under a lock
therefore carry the lock's mark (`guard.py`), and a lock counts as held until none of them is left.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.process.guard import MARKS, marked_processes
from tasks.process.runner import environment

POLL_SECONDS = 0.5
"""Short waits: an exception that Prefect raises in this thread is only delivered between two of them."""


@contextmanager
def waiting_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Holds the lock for the block. `on_wait` is called once where another process has it; then it waits for as long as that takes."""
    with _lock(path) as lock:
        if not _acquire(lock, path, seconds=0):
            on_wait()
            _acquire(lock, path, seconds=None)
        with _marked(path):
            yield


@contextmanager
def lock_or_none(path: Path, wait_seconds: float = 0) -> Iterator[FileLock | None]:
    """Holds the lock for the block; None where another process has it, and still after so long."""
    with _lock(path) as lock:
        if not _acquire(lock, path, wait_seconds):
            yield None
            return
        with _marked(path):
            yield lock


def _acquire(lock: FileLock, path: Path, seconds: float | None) -> bool:
    """Returns False where the lock, or a process of an earlier holder, could not be had within so many seconds (None: waits for ever)."""
    deadline = None if seconds is None else time.monotonic() + seconds
    with contextlib.suppress(Timeout):
        lock.acquire(timeout=-1 if seconds is None else seconds, poll_interval=POLL_SECONDS)
        while marked_processes(_mark(path)):
            if deadline is not None and time.monotonic() >= deadline:
                lock.release(force=True)
                return False
            time.sleep(POLL_SECONDS)
        return True
    return False


@contextmanager
def _marked(path: Path) -> Iterator[None]:
    with environment({MARKS: ":".join(filter(None, [os.environ.get(MARKS), _mark(path)]))}):
        yield


def _mark(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]


@contextmanager
def _lock(path: Path) -> Iterator[FileLock]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # One for each call, and none of a thread's own: Prefect may run a task and its flow in different threads.
    lock = FileLock(path, thread_local=False)
    try:
        yield lock
    finally:
        lock.release(force=True)
