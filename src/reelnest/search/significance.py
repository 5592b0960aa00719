"""How far a figure could be off, had other queries been asked: the bootstrap over queries.

Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile intervals); for retrieval, Sakai 2006,
https://doi.org/10.1145/1148170.1148261.
"""

from collections.abc import Iterator, Mapping

import numpy as np

RESAMPLES = 2000
HELD = 20_000_000
"""Counts held at once (80 MB)."""


def bootstrap_intervals(values: Mapping[str, np.ndarray], confidence: float, seed: int = 0) -> dict[str, tuple[float, float]]:
    """The interval of each metric's figure over queries: lower and upper end.

    Queries are drawn with replacement, as many as there are, RESAMPLES times; the ends are percentiles of the figures of these samples.
    The same number of queries and the same seed give the same draws, so that figures of several dims, or of several models over the same
    queries, are drawn together, and the interval of a difference is that of the queries' differences.

    Args:
        values: by metric, what each query contributes, (queries,); at least one query. `median_rank` is a median, all else are means.
        confidence: share of intervals that hold the true figure, such as 0.95.
        seed: of the draws.
    """
    names = [name for name in values if name != "median_rank"]
    queries = len(next(iter(values.values())))
    columns = np.stack([values[name] for name in names], axis=1).astype(np.float32) if names else np.empty((queries, 0), np.float32)
    means, medians = [], []
    for counts in _draws(queries, seed):
        means.append(counts @ columns / queries)
        if "median_rank" in values:
            medians.append(_medians(values["median_rank"], counts))
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    low, high = np.percentile(np.concatenate(means), tails, axis=0)
    found = {name: (float(low[index]), float(high[index])) for index, name in enumerate(names)}
    if medians:
        ends = np.percentile(np.concatenate(medians), tails)
        found["median_rank"] = (float(ends[0]), float(ends[1]))
    return found


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
