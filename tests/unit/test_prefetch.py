"""Batches prepared in advance."""

import threading
from contextlib import closing

import pytest

from reelnest.prefetch import prefetched


def test_results_come_in_order() -> None:
    assert list(prefetched(range(20), lambda job: job * job)) == [job * job for job in range(20)]


def test_an_error_is_raised_in_the_consumer() -> None:
    def make(job: int) -> int:
        if job == 3:
            raise ValueError("job 3")
        return job

    received = []
    with pytest.raises(ValueError, match="job 3"):
        received.extend(prefetched(range(10), make))
    with closing(prefetched(range(10), make)) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 2]


def test_leaving_early_ends_the_thread_and_makes_no_more_than_ahead_allows() -> None:
    jobs = []

    def make(job: int) -> int:
        jobs.append(job)
        return job

    before = threading.active_count()
    with closing(prefetched(range(1000), make, ahead=2)) as results:
        assert next(results) == 0
    assert threading.active_count() == before
    assert len(jobs) <= 5
