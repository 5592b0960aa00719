"""Locks between runs of this machine. The kernel gives one back when its process dies, however it dies."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

POLL_SECONDS = 0.5
"""Short waits: an exception that Prefect raises in this thread is only delivered between two of them."""


@contextmanager
def waiting_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Holds the lock for the block. `on_wait` is called once where another process has it; then it waits for as long as that takes."""
    with _lock(path) as lock:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            on_wait()
            lock.acquire(poll_interval=POLL_SECONDS)
        yield


@contextmanager
def lock_or_none(path: Path, wait_seconds: float = 0) -> Iterator[FileLock | None]:
    """Holds the lock for the block; None where another process has it, and still after so long."""
    with _lock(path) as lock:
        try:
            lock.acquire(timeout=wait_seconds, poll_interval=POLL_SECONDS)
        except Timeout:
            yield None
            return
        yield lock


@contextmanager
def _lock(path: Path) -> Iterator[FileLock]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # One for each call, and none of a thread's own: Prefect may run a task and its flow in different threads.
    lock = FileLock(path, thread_local=False)
    try:
        yield lock
    finally:
        lock.release(force=True)
