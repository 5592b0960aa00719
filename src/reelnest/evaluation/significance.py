"""How far a figure could be off, had other queries been asked: the bootstrap over queries.

Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile intervals); for retrieval, Sakai 2006,
https://doi.org/10.1145/1148170.1148261.
"""

from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)

RESAMPLES = 2000
HELD = 20_000_000
"""Counts held at once (80 MB)."""


def bootstrap_intervals(
    values: Mapping[Key, np.ndarray], confidence: float, *, medians: Collection[Key] = (), seed: int = 0
) -> dict[Key, tuple[float, float]]:
    """The interval of each figure over queries: lower and upper end.

    Queries are drawn with replacement, as many as there are, RESAMPLES times; the ends are percentiles of the figures of these samples. All
    figures are drawn together, so that those of several dims, or of several models, stand or fall by the same queries, and the interval of
    a difference is that of the queries' differences.

    Args:
        values: by figure, what each query contributes, (queries,); at least one query.
        confidence: share of intervals that hold the true figure, such as 0.95.
        medians: the figures that are medians over the queries; all others are means.
        seed: of the draws, which it and the number of queries determine.
    """
    means = [key for key in values if key not in medians]
    queries = len(next(iter(values.values())))
    columns = np.stack([values[key] for key in means], axis=1).astype(np.float32) if means else np.empty((queries, 0), np.float32)
    drawn: dict[Key, list[np.ndarray]] = {key: [] for key in values}
    for counts in _draws(queries, seed):
        for key, found in zip(means, (counts @ columns / queries).T, strict=True):
            drawn[key].append(found)
        for key in values:
            if key in medians:
                drawn[key].append(_medians(values[key], counts))
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    ends = {key: np.percentile(np.concatenate(found), tails) for key, found in drawn.items()}
    return {key: (float(low), float(high)) for key, (low, high) in ends.items()}


def _draws(queries: int, seed: int) -> Iterator[np.ndarray]:
    """How often each query was drawn, (samples, queries) float32, some samples at a time."""
    random = np.random.default_rng([seed, queries])
    at_once = max(1, HELD // queries)
    for start in range(0, RESAMPLES, at_once):
        samples = min(at_once, RESAMPLES - start)
        counts = np.empty((samples, queries), dtype=np.float32)
        for row in counts:
            row[:] = np.bincount(random.integers(queries, size=queries), minlength=queries)
        yield counts


def _medians(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The median of each sample, (samples,)."""
    order = np.argsort(values)
    drawn = counts[:, order].cumsum(axis=1)
    queries = len(values)
    # The two places in the middle, which are one where the number is odd.
    middle = [(drawn < place).sum(axis=1) for place in ((queries + 1) // 2, queries // 2 + 1)]
    return np.mean([values[order][place] for place in middle], axis=0)
