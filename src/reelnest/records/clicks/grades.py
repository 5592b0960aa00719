"""Grades and hard negatives from clicks, corrected for the position."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reelnest.records.clicks.click_log import Rows

Floats = NDArray[np.float64]

LEAST_CLICKS = 2
"""Clicks that make an item relevant, of different users if the log has users."""
LEAST_SHARE = 0.1
"""An item with a smaller share of its query's highest grade is not used: such clicks are accidents."""
RULE_OF_THREE = 3.0
"""With n looks and no click, the click probability is below 3 / n with 95 % confidence (Hanley and Lippman-Hand, JAMA 1983)."""
MOST_NEGATIVES = 20
"""Negatives of a query: those with the most looks without a click."""


@dataclass(frozen=True)
class Evidence:
    """What a log shows about each query and item that it has together, ordered by query and item."""

    query: NDArray[np.int32]
    item: NDArray[np.int32]
    row: NDArray[np.int64]
    """The first row of the two in the file."""
    clicks: Floats
    looks: Floats
    """Impressions, each counted with the propensity of its position."""
    clickers: NDArray[np.int64]
    """Number of users who clicked, or of clicks in a log without users."""


@dataclass(frozen=True)
class Graded:
    """A relevant item of a query."""

    query: int
    item: int
    row: int
    grade: float
    negatives: tuple[int, ...]


def collect_evidence(rows: Rows, propensities: Floats) -> Evidence:
    """Adds up the rows of each query and item. Rows at ranks without a propensity do not count."""
    rows = rows.of(~np.isnan(propensities[rows.rank]))
    keys, first, pair = np.unique(rows.pair, return_index=True, return_inverse=True)
    clicks: Floats = np.bincount(pair, rows.clicks, len(keys)).astype(np.float64)
    clicked = rows.clicks > 0
    by_user = np.unique(np.stack([pair[clicked].astype(np.uint64), rows.user[clicked]]), axis=1)[0].astype(np.int64)
    clickers = np.bincount(by_user, minlength=len(keys)) if rows.user.any() else clicks.astype(np.int64)
    looks: Floats = np.bincount(pair, rows.impressions * propensities[rows.rank], len(keys)).astype(np.float64)
    return Evidence(rows.query[first], rows.item[first], rows.row[first], clicks, looks, clickers)


def estimate_relevance(evidence: Evidence) -> Floats:
    """Returns the probability of a click on each item when it is looked at.

    The number of clicks is Poisson with mean relevance · looks, and relevance has a gamma distribution over all items, whose two parameters
    are fitted. The result is the mean given the item's clicks, so that few looks say little: one click in one look is no grade of 1.
    """
    shape, rate = _fit_gamma(evidence.clicks, evidence.looks)
    return np.minimum((evidence.clicks + shape) / (evidence.looks + rate), 1.0)


def grade(evidence: Evidence) -> list[Graded]:
    """Returns the relevant items of all queries with their grades, and with the query's hard negatives.

    An item is relevant if it has LEAST_CLICKS and LEAST_SHARE of the query's highest grade. It is a hard negative if it has no click, and
    enough looks that with 95 % confidence its relevance is below that of each relevant item (RULE_OF_THREE).
    """
    relevance = estimate_relevance(evidence)
    result: list[Graded] = []
    starts = np.flatnonzero(np.diff(evidence.query, prepend=-1))
    for begin, end in zip(starts, [*starts[1:], len(evidence.query)], strict=True):
        of_query = np.arange(begin, end)
        relevant = of_query[evidence.clickers[begin:end] >= LEAST_CLICKS]
        if not len(relevant):
            continue
        relevant = relevant[relevance[relevant] >= LEAST_SHARE * relevance[relevant].max()]
        unclicked = of_query[evidence.clicks[begin:end] == 0]
        negative = unclicked[evidence.looks[unclicked] * relevance[relevant].min() >= RULE_OF_THREE]
        strongest = negative[np.argsort(-evidence.looks[negative], kind="stable")][:MOST_NEGATIVES]
        negatives = tuple(evidence.item[strongest].tolist())
        for at in relevant:
            value = round(float(relevance[at]), 4)
            result.append(Graded(int(evidence.query[at]), int(evidence.item[at]), int(evidence.row[at]), value, negatives))
    return result


def _fit_gamma(clicks: Floats, looks: Floats) -> tuple[float, float]:
    """Returns shape and rate of the gamma distribution under which the clicks, then negative binomial, are most likely."""
    from scipy.optimize import minimize
    from scipy.special import gammaln

    mean = max(clicks.sum(), 1.0) / looks.sum()

    def loss(logs: Floats) -> float:
        shape, rate = np.exp(logs)
        likelihood = gammaln(clicks + shape) - gammaln(shape) + shape * np.log(rate) - (clicks + shape) * np.log(looks + rate)
        return -float(likelihood.mean())

    # Bounds as logarithms: a log in which all items are equally relevant has no finite optimum.
    done = minimize(loss, np.log([1.0, 1.0 / mean]), method="L-BFGS-B", bounds=[(-7, 7), (-7, 12)])
    shape, rate = np.exp(done.x)
    return float(shape), float(rate)
