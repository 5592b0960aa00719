"""The smallest vectors that are as good as the best ones: what an index can be built with."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from reelnest.evaluation.configurations import Configuration
from reelnest.evaluation.significance import bootstrap_intervals
from reelnest.search.storage_types import storage_names


@dataclass(frozen=True)
class Choice:
    """A configuration, and what it costs against the one with the highest figure."""

    chosen: Configuration
    metric: str
    margin: float
    value: float
    best: Configuration
    best_value: float
    low: float
    """The lower end of the difference to the best, value - best_value, at the confidence that was asked for (one-sided)."""


def smallest(values: Mapping[Configuration, np.ndarray], metric: str, margin: float, confidence: float) -> Choice:
    """The configuration with the fewest bytes a vector whose figure is shown to be less than `margin` below that of the best one.

    All were asked the same queries, so their differences are resampled query by query. They are tried from the smallest on, and the first
    that passes is taken; the best always does. Of equally small ones the plainest goes first: one search before a funnel, which saves time
    and no room, and floats before codes. The confidence is that of each comparison.

    Args:
        values: of `metric`, a mean over queries (higher is better), by configuration, what each query contributes; at least one query.
        metric: its name.
        margin: in its unit.
        confidence: such as 0.95.
    """
    order = sorted(values, key=lambda one: (one.bytes_per_vector, len(one.funnel), storage_names().index(one.storage), one.dim, one.funnel))
    best = max(order, key=lambda one: float(values[one].mean()))  # of equal ones the first, which is the smallest
    ends = bootstrap_intervals({one: values[one] - values[best] for one in order}, confidence=2 * confidence - 1)
    chosen = next(one for one in order if one == best or ends[one][0] > -margin)
    return Choice(chosen, metric, margin, float(values[chosen].mean()), best, float(values[best].mean()), ends[chosen][0])
