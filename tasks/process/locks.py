"""Locks between runs on one machine. The kernel releases a lock when its process ends, for whatever reason.

Commands that the holder started may outlive it, such as a stage that saves its checkpoint after its flow was killed. So commands that are
started under a lock carry its mark (`guard.py`), and the lock counts as held until all of them have ended.
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
"""Short, because exceptions that Prefect raises in this thread are only delivered between two waits."""


@contextmanager
def waiting_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Holds the lock for the block. If another process has it, calls `on_wait` once and waits without a limit."""
    with _lock(path) as lock:
        if not _acquire(lock, path, seconds=0):
            on_wait()
            _acquire(lock, path, seconds=None)
        with _marked(path):
            yield


@contextmanager
def lock_or_none(path: Path, wait_seconds: float = 0) -> Iterator[FileLock | None]:
    """Holds the lock for the block; yields None if another process still has it after `wait_seconds`."""
    with _lock(path) as lock:
        if not _acquire(lock, path, wait_seconds):
            yield None
            return
        with _marked(path):
            yield lock


def _acquire(lock: FileLock, path: Path, seconds: float | None) -> bool:
    """Returns False if the lock, or a process of an earlier holder, is not free within `seconds` (None waits without a limit)."""
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
    # A new lock for each call, not bound to a thread: Prefect may run a task and its flow in different threads.
    lock = FileLock(path, thread_local=False)
    try:
        yield lock
    finally:
        lock.release(force=True)
