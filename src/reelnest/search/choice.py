"""The smallest vectors that are as good as the best ones: what an index can be built with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reelnest.search.evaluation import QueryMetrics
from reelnest.search.significance import bootstrap_intervals


@dataclass(frozen=True)
class Choice:
    """A dim, and what it costs against the dim with the highest figure."""

    dim: int
    metric: str
    margin: float
    value: float
    best_dim: int
    best_value: float
    low: float
    """The lower end of the difference to the best, value - best_value, at the confidence that was asked for (one-sided)."""


def smallest_dim(by_query: Sequence[QueryMetrics], metric: str, margin: float, confidence: float) -> Choice:
    """The smallest dim whose figure over all queries is shown to be less than `margin` below that of the best dim.

    Both dims were asked the same queries, so their differences are resampled query by query. Dims are tried from the smallest on, and the
    first that passes is taken; the best dim always does. The confidence is that of each comparison.

    Args:
        by_query: of all pair kinds and dims; at least one query.
        metric: a mean over queries; higher is better.
        margin: in the metric's unit.
        confidence: such as 0.95.
    """
    dims = sorted({found.dim for found in by_query})
    values = {dim: np.concatenate([found.values[metric] for found in by_query if found.dim == dim]) for dim in dims}
    best = max(dims, key=lambda dim: (values[dim].mean(), -dim))
    ends = bootstrap_intervals({dim: values[dim] - values[best] for dim in dims}, confidence=2 * confidence - 1)
    dim = next(dim for dim in dims if dim == best or ends[dim][0] > -margin)
    return Choice(dim, metric, margin, float(values[dim].mean()), best, float(values[best].mean()), ends[dim][0])
