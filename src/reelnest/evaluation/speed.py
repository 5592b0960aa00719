"""The speed of searches, with its spread over repeated runs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

RUNS, ENOUGH_RUNS, ENOUGH_SECONDS = 9, 3, 1.0
"""A search is timed RUNS times, or at least ENOUGH_RUNS times if that takes ENOUGH_SECONDS. One more run before is not counted, because it
reads memory that is not in the processor's cache."""
TIMED_QUERIES, TIMED_K = 256, 10
"""A run searches with at most TIMED_QUERIES queries at once, for TIMED_K results each."""


@dataclass(frozen=True)
class Speed:
    """Searches a second on this machine, without encoding: the median and the quartiles of repeated runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, queries: int, seconds: NDArray[np.float64]) -> Self:
        """Makes a Speed of the quartiles of the seconds for these queries, (3,)."""
        fast, median, slow = (queries / np.maximum(seconds, 1e-9)).tolist()
        return cls(median, slow, fast)


def seconds_per_query(search: Callable[[Tensor, int], object], queries: Tensor) -> NDArray[np.float64]:
    """Returns the quartiles of the seconds that `search(queries, k)` takes for each of its queries: (3,)."""
    timed = queries[:TIMED_QUERIES]
    search(timed, TIMED_K)
    moments = [time.perf_counter()]
    while len(moments) <= ENOUGH_RUNS or (len(moments) <= RUNS and moments[-1] - moments[0] < ENOUGH_SECONDS):
        search(timed, TIMED_K)
        moments.append(time.perf_counter())
    return np.percentile(np.diff(moments), (25, 50, 75)) / len(timed)
