"""How likely a result at a position is looked at, estimated from the log itself.

The method is intervention harvesting: A. Agarwal, I. Zaitsev, X. Wang, C. Li, M. Najork, T. Joachims, "Estimating Position Bias without
Intrusive Interventions", WSDM 2019 (its AllPairs estimator). It assumes the position-based model: a result is clicked if it is looked at,
which depends on its position only, and is relevant. If the ranking changed, some items were shown at two positions for one query. Their
relevance was the same at both, so their clicks at the two have the ratio of the positions' propensities. All such items and all pairs of
positions are fitted together.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from reelnest.errors import DataError
from reelnest.records.clicks.click_log import Rows

Floats = NDArray[np.float64]

PAIRS_AT_ONCE = 2**14
SMALLEST = 1e-3


def estimate_propensities(rows: Rows) -> Floats:
    """Returns the propensity of each rank, as a share of that of the first: (largest rank + 1,).

    It is NaN for ranks that no item shares with the first ones, and 1 for rank 0, which a log without positions has.

    Raises DataError if there are several positions, but no item was clicked at more than one of them.
    """
    from scipy.sparse.csgraph import connected_components

    propensities = np.full(int(rows.rank.max()) + 1, np.nan)
    propensities[0] = 1.0
    ranks = np.unique(rows.rank)
    if len(ranks) == 1:
        propensities[ranks] = 1.0
        return propensities
    clicks, weights = harvest(rows, ranks)
    has_evidence = (clicks > 0) & (clicks.T > 0)
    _, group = connected_components(has_evidence, directed=False)
    in_group = np.flatnonzero(group == np.argmax(np.bincount(group)))
    if len(in_group) == 1:
        raise DataError(
            "no item was clicked at two positions for one query, so the position bias cannot be estimated. Import a longer log, with"
            " several rankings, or an aggregated table without positions, which is not corrected."
        )
    inside = np.ix_(in_group, in_group)
    propensities[ranks[in_group]] = fit(clicks[inside], weights[inside])
    return propensities


def harvest(rows: Rows, ranks: NDArray[np.int16]) -> tuple[Floats, Floats]:
    """Returns clicks and weights of the items that were shown at two ranks, (ranks, ranks): at [k, j] what happened at rank k.

    Each item counts with its click rates at the two ranks, as in the paper. Its weight is that of Mantel and Haenszel, n·m / (n + m) for n
    and m impressions: the least noisy weight that is the same at both ranks.
    """
    pairs, pair = np.unique(rows.pair, return_inverse=True)
    number = len(pairs)
    shape = (len(ranks), len(ranks))
    clicks, weights = np.zeros(shape), np.zeros(shape)
    by_pair = np.argsort(pair, kind="stable")
    starts = np.searchsorted(pair[by_pair], np.arange(0, number + PAIRS_AT_ONCE, PAIRS_AT_ONCE))
    for first, (begin, end) in zip(range(0, number, PAIRS_AT_ONCE), pairwise(starts), strict=True):
        chosen = by_pair[begin:end]
        cell = (pair[chosen] - first) * len(ranks) + np.searchsorted(ranks, rows.rank[chosen])
        size = PAIRS_AT_ONCE * len(ranks)
        shown = np.bincount(cell, rows.impressions[chosen], size).reshape(-1, len(ranks))
        clicked = np.bincount(cell, rows.clicks[chosen], size).reshape(-1, len(ranks))
        several = (shown > 0).sum(axis=1) > 1
        shown, clicked = shown[several], clicked[several]
        rate = clicked / np.maximum(shown, 1)
        for k in range(len(ranks)):
            weight = shown[:, [k]] * shown / np.maximum(shown[:, [k]] + shown, 1)  # (pairs, ranks)
            clicks[k] += rate[:, k] @ weight
            weights[k] += weight.sum(axis=0)
    np.fill_diagonal(clicks, 0)
    np.fill_diagonal(weights, 0)
    return clicks, weights


def fit(clicks: Floats, weights: Floats) -> Floats:
    """Returns the propensities with the highest likelihood of `harvest`'s clicks, divided by that of the first rank.

    A click at rank k on an item that was shown at j too has the probability propensity[k] · relevance[k, j]. The relevance is a mean over
    those items, equal at [j, k].
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    count = len(clicks)
    upper = np.triu_indices(count, 1)

    def loss(logits: Floats) -> tuple[float, Floats]:
        propensity, relevance = expit(logits[:count]), np.zeros((count, count))
        relevance[upper] = expit(logits[count:])
        relevance += relevance.T
        probability = np.clip(propensity[:, None] * relevance, 1e-12, 1 - 1e-12)
        likelihood = clicks * np.log(probability) + (weights - clicks) * np.log1p(-probability)
        slope = clicks - (weights - clicks) * probability / (1 - probability)  # by the logarithm of the probability
        by_pair = ((slope + slope.T) * (1 - relevance))[upper]
        return -likelihood.sum() / total, -np.concatenate([slope.sum(axis=1) * (1 - propensity), by_pair]) / total

    total = weights.sum()
    done = minimize(loss, np.zeros(count + len(upper[0])), jac=True, method="L-BFGS-B", options={"maxiter": 5000})
    propensity = expit(done.x[:count])
    return np.maximum(propensity / propensity[0], SMALLEST)
