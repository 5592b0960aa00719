"""Items of concurrent threads are computed together."""

import asyncio
import gc
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from reelnest.search.batching import LARGEST_BATCH, Batched


class Halves:
    """Halves even numbers, slowly, and notes the size of each batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(len(numbers))
        time.sleep(0.02)
        if any(number % 2 for number in numbers):
            raise ValueError("odd")
        return [number // 2 for number in numbers]


def test_what_waits_is_computed_together_and_each_caller_gets_its_own_result_or_error() -> None:
    halves = Halves()
    batched = Batched(halves, "halves")

    def one(number: int) -> int | str:
        try:
            return batched.submit(number).result()
        except ValueError:
            return "refused"

    with ThreadPoolExecutor(100) as pool:
        found = list(pool.map(one, [*range(0, 100, 2), 101, *range(100, 200, 2)]))
    assert found == [*range(50), "refused", *range(50, 100)]
    assert 1 < max(halves.batches) <= LARGEST_BATCH


def test_what_waits_when_it_is_closed_is_computed_and_a_later_item_starts_it_again() -> None:
    batched = Batched(Halves(), "halves")
    waiting = [batched.submit(number) for number in (2, 4, 6)]
    batched.close()
    assert [result.result(0) for result in waiting] == [1, 2, 3]
    assert batched.submit(8).result(60) == 4


def test_a_cancelled_item_is_not_computed() -> None:
    halves = Halves()
    batched = Batched(halves, "halves")
    running = batched.submit(2)
    while not running.running():
        time.sleep(0.001)
    waiting = [batched.submit(number) for number in (4, 6)]
    assert waiting[0].cancel()
    assert (running.result(60), waiting[1].result(60)) == (1, 3)
    batched.submit(8).cancel()
    batched.close()
    assert halves.batches[:2] == [1, 1]


def test_an_event_loop_is_woken_once_for_the_results_of_a_batch() -> None:
    halves = Halves()
    batched = Batched(halves, "halves")

    async def run() -> list[int | BaseException]:
        loop = asyncio.get_running_loop()
        woken, wake = [], loop.call_soon_threadsafe

        def noted(*arguments: Any, **options: Any) -> asyncio.Handle:
            woken.append(arguments)
            return wake(*arguments, **options)

        loop.call_soon_threadsafe = noted  # type: ignore[method-assign]  # it is counted
        first = asyncio.create_task(batched.result(0))
        while not halves.batches:
            await asyncio.sleep(0.001)
        waiting = [asyncio.create_task(batched.result(number)) for number in range(2, 40, 2)]
        await asyncio.sleep(0)
        waiting[-1].cancel()
        results = await asyncio.gather(first, *waiting, return_exceptions=True)
        assert len(woken) == len(halves.batches) == 2
        with pytest.raises(ValueError, match="odd"):
            await batched.result(1)
        return results

    *results, last = asyncio.run(run())
    assert results == list(range(19))
    assert isinstance(last, asyncio.CancelledError)
    assert halves.batches[:2] == [1, 18]
    batched.close()


def test_a_result_for_a_loop_that_is_closed_stops_nothing() -> None:
    batched = Batched(Halves(), "halves")

    async def give_up() -> None:
        asyncio.get_running_loop().create_task(batched.result(2))
        await asyncio.sleep(0.005)

    asyncio.run(give_up())
    assert batched.submit(4).result(60) == 2
    batched.close()


def test_a_caller_computes_for_itself_while_no_other_does_and_lets_a_waiting_batch_go_first() -> None:
    threads: list[tuple[str, int]] = []
    computing, go_on = threading.Event(), threading.Event()

    def halves(numbers: Sequence[int]) -> list[int]:
        threads.append((threading.current_thread().name, len(numbers)))
        computing.set()
        assert go_on.wait(60)
        return [number // 2 for number in numbers]

    batched = Batched(halves, "batches")
    with ThreadPoolExecutor(8, thread_name_prefix="caller") as callers:
        first = callers.submit(batched.here, 2)
        assert computing.wait(60)
        waiting = batched.submit(4)
        while not batched._turn.batch_waits:  # its thread waits for the first caller
            time.sleep(0.001)
        others = [callers.submit(batched.here, number) for number in (6, 8)]
        while batched._waiting.qsize() < len(others):
            time.sleep(0.001)
        go_on.set()
        assert [first.result(60), waiting.result(60), *[other.result(60) for other in others]] == [1, 2, 3, 4]
    batched.close()
    assert threads == [("caller_0", 1), ("batches", 3)]


def test_callers_that_compute_for_themselves_never_compute_at_once() -> None:
    running: list[int] = []

    def halves(numbers: Sequence[int]) -> list[int]:
        running.append(1)
        assert len(running) == 1
        time.sleep(0.0005)
        if any(number % 2 for number in numbers):
            running.clear()
            raise ValueError("odd")
        running.clear()
        return [number // 2 for number in numbers]

    batched = Batched(halves, "batches")

    def one(number: int) -> int | str:
        try:
            return batched.here(number) if number % 3 else batched.submit(number).result()
        except ValueError:
            return "refused"

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, range(300))) == [number // 2 if number % 2 == 0 else "refused" for number in range(300)]
    batched.close()


def test_its_thread_ends_with_it() -> None:
    batched = Batched(Halves(), "forgotten")
    batched.submit(2).result(60)
    thread = next(thread for thread in threading.enumerate() if thread.name == "forgotten")
    del batched
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_forked_process_starts_its_own_thread() -> None:
    batched = Batched(Halves(), "halves")
    batched.submit(2).result(60)
    batched.submit(4)
    while not batched._turn.lock.locked():
        time.sleep(0.0001)
    child = os.fork()  # while the thread computes, which the child does not have
    if child == 0:
        os._exit(batched.here(8))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
