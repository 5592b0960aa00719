"""Computes what concurrent requests need in batches."""

import asyncio
import contextlib
import os
import queue
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

LARGEST_BATCH = 64

_Promise: TypeAlias = Future[Result] | asyncio.Future[Result]
_Waiting: TypeAlias = queue.SimpleQueue[tuple[Item, _Promise[Result]] | None]


class _Turn:
    """Whose turn it is to compute: the batches' thread comes before callers that compute for themselves."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.batch_waits = False


class Batched(Generic[Item, Result]):
    """Threads share a function, which has a thread of its own. What arrives while a batch is computed becomes the next batch.

    So a request alone waits for nothing. A thread that waits wakes only for its own result: with a lock around the function, each batch
    would wake all threads in turn before the next one could begin.
    """

    def __init__(self, compute: Callable[[Sequence[Item]], Sequence[Result]], name: str) -> None:
        """`compute` returns the results of 1 to LARGEST_BATCH items. It is called by one thread at a time. The name is the thread's."""
        self._compute, self._name = compute, name
        self._process, self._turn = os.getpid(), _Turn()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, item: Item) -> Future[Result]:
        """Returns the item's result, later, or what the function raises for this item alone. It can be cancelled while it waits."""
        result = Future[Result]()
        self._put(item, result)
        return result

    def here(self, item: Item) -> Result:
        """Returns the item's result, computed by the caller's thread while no other computes: two changes of threads take 0.1 to 0.3 ms."""
        turn = self._turn
        if turn.batch_waits or not turn.lock.acquire(blocking=False):
            return self.submit(item).result()
        try:
            return self._compute([item])[0]
        finally:
            turn.lock.release()

    async def result(self, item: Item) -> Result:
        """Returns the item's result in an event loop. All results of a batch come to the loop at once, because each message wakes it."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._put(item, result)
        return await result

    def close(self) -> None:
        """Ends the thread, after what waits. Another item would start it again."""
        with self._starting:
            if self._thread is not None and self._thread.is_alive():
                self._end()
                self._thread.join()

    def _put(self, item: Item, result: _Promise[Result]) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():  # not alive in a process that was forked
                self._start()
            self._waiting.put((item, result))

    def _start(self) -> None:
        if self._process != os.getpid():  # whoever held the lock is not in a process that was forked
            self._process, self._turn = os.getpid(), _Turn()
        self._waiting: _Waiting[Item, Result] = queue.SimpleQueue()
        # The thread has no reference to this object, and ends when nobody else has one.
        self._thread = threading.Thread(target=_run, args=(self._waiting, self._compute, self._turn), name=self._name, daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, self._waiting.put, None)


def _run(waiting: _Waiting[Item, Result], compute: Callable[[Sequence[Item]], Sequence[Result]], turn: _Turn) -> None:
    while (first := waiting.get()) is not None:
        batch = [first]
        turn.batch_waits = True
        with turn.lock:
            turn.batch_waits = False
            while len(batch) < LARGEST_BATCH and not waiting.empty():
                following = waiting.get()
                if following is None:
                    waiting.put(None)  # ends the loop after this batch
                    break
                batch.append(following)
            _resolve([(item, result) for item, result in batch if _begins(result)], compute)
        del first, batch  # nothing is kept while the queue is empty


def _begins(result: _Promise[Result]) -> bool:
    """Returns whether it was not cancelled. One of a thread cannot be cancelled from now on."""
    return result.set_running_or_notify_cancel() if isinstance(result, Future) else not result.cancelled()


def _resolve(batch: Sequence[tuple[Item, _Promise[Result]]], compute: Callable[[Sequence[Item]], Sequence[Result]]) -> None:
    if not batch:
        return
    try:
        outcomes: Sequence[Result | Exception] = compute([item for item, _ in batch])
    except Exception as error:  # noqa: BLE001 (the caller raises it)
        if len(batch) > 1:
            for waited in batch:  # one item's fault is not the others'
                _resolve([waited], compute)
            return
        outcomes = [error]
    loops = defaultdict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Result], Result | Exception]]](list)
    for (_, result), outcome in zip(batch, outcomes, strict=True):
        if isinstance(result, asyncio.Future):
            loops[result.get_loop()].append((result, outcome))
        else:
            _set(result, outcome)
    for loop, outcomes_of_loop in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(_set_all, outcomes_of_loop)


def _set_all(outcomes: Sequence[tuple[asyncio.Future[Result], Result | Exception]]) -> None:
    for result, outcome in outcomes:
        if not result.cancelled():
            _set(result, outcome)


def _set(result: _Promise[Result], outcome: Result | Exception) -> None:
    if isinstance(outcome, Exception):
        result.set_exception(outcome)
    else:
        result.set_result(outcome)
