"""Confidence intervals of metrics: the bootstrap over queries.

Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile intervals); for retrieval, Sakai 2006,
https://doi.org/10.1145/1148170.1148261.
"""

from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)

RESAMPLES = 2000
HELD = 20_000_000
"""Counts in memory at once (80 MB)."""


def bootstrap_intervals(
    values: Mapping[Key, np.ndarray], confidence: float, *, medians: Collection[Key] = (), seed: int = 0
) -> dict[Key, tuple[float, float]]:
    """Returns the lower and upper end of each figure's interval over queries.

    Queries are drawn with replacement RESAMPLES times, as many as there are; the ends are percentiles over these samples. All figures
    share the draws, so dims and models are compared on the same queries. For the interval of a difference, pass the queries' differences.

    Args:
        values: By figure, the value of each query, (queries,); at least one query.
        confidence: Share of intervals that contain the true figure, such as 0.95.
        medians: The figures that are medians over queries; all others are means.
        seed: Together with the number of queries it determines the draws.
    """
    means = [key for key in values if key not in medians]
    queries = len(next(iter(values.values())))
    columns = np.stack([values[key] for key in means], axis=1).astype(np.float32) if means else np.empty((queries, 0), np.float32)
    drawn: dict[Key, list[np.ndarray]] = {key: [] for key in values}
    for counts in _draws(queries, seed):
        for key, means_of_samples in zip(means, (counts @ columns / queries).T, strict=True):
            drawn[key].append(means_of_samples)
        for key in values:
            if key in medians:
                drawn[key].append(_medians(values[key], counts))
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    ends = {key: np.percentile(np.concatenate(figures), tails) for key, figures in drawn.items()}
    return {key: (float(low), float(high)) for key, (low, high) in ends.items()}


def _draws(queries: int, seed: int) -> Iterator[np.ndarray]:
    """Yields how often each query was drawn, (samples, queries) float32, some samples at a time."""
    random = np.random.default_rng([seed, queries])
    at_once = max(1, HELD // queries)
    for start in range(0, RESAMPLES, at_once):
        samples = min(at_once, RESAMPLES - start)
        counts = np.empty((samples, queries), dtype=np.float32)
        for row in counts:
            row[:] = np.bincount(random.integers(queries, size=queries), minlength=queries)
        yield counts


def _medians(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the median of each sample, (samples,)."""
    ascending = np.argsort(values)
    drawn = counts[:, ascending].cumsum(axis=1)
    queries = len(values)
    # The two middle places, which are the same if the number of queries is odd.
    middle = [(drawn < place).sum(axis=1) for place in ((queries + 1) // 2, queries // 2 + 1)]
    return np.mean([values[ascending][place] for place in middle], axis=0)
