"""Recommends a configuration for an index: the smallest one that loses less than the margin."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from reelnest.evaluation.configurations import Configuration
from reelnest.evaluation.significance import bootstrap_intervals
from reelnest.search.storage_types import storage_names


@dataclass(frozen=True)
class Choice:
    """The recommended configuration, compared with the best one."""

    chosen: Configuration
    metric: str
    margin: float
    value: float
    best: Configuration
    best_value: float
    low: float
    """One-sided lower confidence bound of `value - best_value`."""


def smallest(values: Mapping[Configuration, np.ndarray], metric: str, margin: float, confidence: float) -> Choice:
    """Returns the configuration with the fewest bytes per vector that is less than `margin` worse than the best, with `confidence`.

    All configurations searched the same queries, so the bootstrap resamples their differences query by query. They are tried in order of
    size, and the first that passes is returned; the best one always passes. Of equal sizes the simplest comes first: a single search before
    a funnel (which is faster, not smaller), and floats before quantised types. The confidence applies to each comparison by itself.

    Args:
        values: By configuration, the metric of each query, (queries,), higher is better; at least one query.
        metric: The name of the metric, a mean over queries.
        margin: In the metric's unit.
        confidence: Such as 0.95.
    """
    options = sorted(
        values,
        key=lambda option: (option.bytes_per_vector, len(option.funnel), storage_names().index(option.storage), option.dim, option.funnel),
    )
    best = max(options, key=lambda option: float(values[option].mean()))  # of ties the first, which is the smallest
    ends = bootstrap_intervals({option: values[option] - values[best] for option in options}, confidence=2 * confidence - 1)
    chosen = next(option for option in options if option == best or ends[option][0] > -margin)
    return Choice(chosen, metric, margin, float(values[chosen].mean()), best, float(values[best].mean()), ends[chosen][0])
