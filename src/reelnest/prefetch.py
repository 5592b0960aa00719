"""Prepares the next batches while the last one is used."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetched(jobs: Iterable[T], make: Callable[[T], R], ahead: int = 2) -> Generator[R, None, None]:
    """Yields make(job) for each job, in order, computed by a thread up to `ahead` results in advance.

    A thread suffices, without worker processes: reading, tokenizing and copying release Python's lock. Errors of
    `make` are raised here. Closing the iterator, or leaving the loop over it, stops the thread.
    """
    results: queue.Queue[tuple[R | None, BaseException | None, bool]] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(value: R | None, error: BaseException | None, last: bool) -> bool:
        while not stop.is_set():
            try:
                results.put((value, error, last), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for job in jobs:
                if not put(make(job), None, False):
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised in the consumer's thread
            put(None, error, True)
            return
        put(None, None, True)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            value, error, last = results.get()
            if error is not None:
                raise error
            if last:
                return
            yield value  # type: ignore[misc]  # not the last one, so a value
    finally:
        stop.set()
        thread.join()
