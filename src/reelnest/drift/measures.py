"""Two-sample tests of whether two versions of the data come from one distribution, each with an effect size.

With much data every difference is significant, and with little data large effects occur by chance. A measure has therefore drifted only if
the difference is significant at the configured confidence, with a Bonferroni correction over all measures, and the effect reaches the
margin. Items that both versions share make the tests more conservative.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from scipy.stats import chi2_contingency, ks_2samp, mannwhitneyu

PERMUTATIONS = 9_999
"""Enough for the smallest p-value that `drift.confidence` can require with ten measures."""
AT_ONCE = 500
BINS = 24
LAST_BIN_FROM = 0.99
"""Quantile of all values at which the last bin starts. Without it, a few outliers would put all other values into one bin."""
FEWEST = 2
"""Values that each version needs for a comparison."""


@dataclass(frozen=True)
class Shift:
    """The difference of a measure between the two versions. Effects are from 0 (no difference) to 1."""

    measure: str
    statistic: str
    """The name of the effect size."""
    effect: float
    p: float
    before: int
    after: int
    """The number of values of each version."""
    margin: float
    """The smallest effect that counts as drift."""


@dataclass(frozen=True)
class Verdict:
    """Whether a shift, one of several that were tested, is drift."""

    shift: Shift
    adjusted: float
    """The p-value times the number of measures."""
    drifted: bool


def decide_drift(shifts: Sequence[Shift], confidence: float) -> list[Verdict]:
    """Decides which shifts are drift. Without any drift, the probability of a false alarm is at most 1 - `confidence`."""
    adjusted = [min(1.0, shift.p * len(shifts)) for shift in shifts]
    return [Verdict(shift, p, p <= 1 - confidence and shift.effect >= shift.margin) for shift, p in zip(shifts, adjusted, strict=True)]


def numbers_shift(measure: str, before: ArrayLike, after: ArrayLike, margin: float) -> Shift | None:
    """Returns the Kolmogorov-Smirnov test. Its effect is the largest distance between the two cumulative distributions."""
    earlier, later = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if min(len(earlier), len(later)) < FEWEST:
        return None
    test = ks_2samp(earlier, later, method="asymp")
    return Shift(measure, "Kolmogorov-Smirnov D", float(test.statistic), float(test.pvalue), len(earlier), len(later), margin)


def counts_shift(measure: str, before: Mapping[str, int], after: Mapping[str, int], margin: float) -> Shift | None:
    """Returns the chi-squared test of the counts of both versions. Its effect is Cramér's V of their shares.

    Of the counts, V would be small whenever one version is much smaller than the other, whatever its shares: it depends on the sizes.
    """
    kinds = sorted({*before, *after})
    table = np.array([[side.get(kind, 0) for kind in kinds] for side in (before, after)])
    if min(table.sum(axis=1), default=0) < FEWEST:
        return None
    p = 1.0 if len(kinds) == 1 else float(chi2_contingency(table, correction=False).pvalue)
    shares = table / table.sum(axis=1, keepdims=True)
    effect = float(np.sqrt((np.diff(shares, axis=0)[0] ** 2 / (2 * shares.sum(axis=0))).sum()))
    return Shift(measure, "Cramér's V", effect, p, int(table[0].sum()), int(table[1].sum()), margin)


def vectors_shift(measure: str, before: NDArray[np.float32], after: NDArray[np.float32], margin: float) -> Shift | None:
    """Returns the energy test, by permutation: how much farther apart vectors of different versions are than those of the same version.

    Székely and Rizzo 2013, https://doi.org/10.1016/j.jspi.2013.03.018. It equals the maximum mean discrepancy with the distance as kernel
    (Sejdinovic et al. 2013, https://doi.org/10.1214/13-AOS1140), so no bandwidth has to be chosen. The effect is the square root of the
    unbiased energy distance divided by the distance between the versions. Its size is similar to the Kolmogorov-Smirnov distance.

    Args:
        measure: the name of the measure.
        before: (vectors, dim), of unit length.
        after: (vectors, dim), of unit length, of the new data.
        margin: the smallest effect that counts as drift.
    """
    n, m = len(before), len(after)
    if min(n, m) < FEWEST:
        return None
    pooled = np.concatenate([before, after]).astype(np.float64)
    distances = cdist(pooled, pooled)
    labels = np.zeros(n + m)
    labels[:n] = 1
    (energy,), (between,) = _energy(distances, labels[None], n, m)
    random = np.random.default_rng([n, m])
    as_far = 0
    for start in range(0, PERMUTATIONS, AT_ONCE):
        permuted = random.permuted(np.tile(labels, (min(AT_ONCE, PERMUTATIONS - start), 1)), axis=1)
        as_far += int((_energy(distances, permuted, n, m)[0] >= energy - 1e-12).sum())
    effect = float(np.sqrt(max(0.0, energy) / (2 * between))) if between > 0 else 0.0
    return Shift(measure, "energy effect", min(1.0, effect), (1 + as_far) / (1 + PERMUTATIONS), n, m, margin)


def fall(measure: str, before: ArrayLike, after: ArrayLike, margin: float) -> Shift | None:
    """Returns the Mann-Whitney test of whether a metric of the queries decreased. Its effect is the decrease of the mean."""
    earlier, later = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if min(len(earlier), len(later)) < FEWEST:
        return None
    p = mannwhitneyu(later, earlier, alternative="less", method="asymptotic").pvalue
    return Shift(measure, "fall of the mean", max(0.0, float(earlier.mean() - later.mean())), float(p), len(earlier), len(later), margin)


def histogram(before: ArrayLike, after: ArrayLike) -> dict[str, list[float]]:
    """Returns the share of each version's values in shared bins. The last bin also has all larger values."""
    sides = {"before": np.asarray(before, np.float64), "after": np.asarray(after, np.float64)}
    pooled = np.concatenate(list(sides.values()))
    low, top = float(pooled.min()), float(np.quantile(pooled, LAST_BIN_FROM))
    if (pooled == np.floor(pooled)).all():
        # Bins of integers have an integer width, or some would cover more integers than others.
        step = max(1.0, np.ceil((top - low) / BINS))
        edges = np.arange(low, max(top, low + 1) + step, step)
    else:
        edges = np.linspace(low, max(top, low + 1e-9), BINS + 1)
    shares = {name: np.histogram(np.minimum(side, edges[-1]), edges)[0] / max(1, len(side)) for name, side in sides.items()}
    return {"edges": edges.tolist(), **{name: side.tolist() for name, side in shares.items()}}


def sampled(ids: Sequence[str], most: int) -> list[str]:
    """Returns a sample of at most `most` ids. It does not depend on their order and is the same for the same ids."""
    ordered = sorted(ids)
    if len(ordered) <= most:
        return ordered
    return [ordered[at] for at in sorted(np.random.default_rng(len(ordered)).choice(len(ordered), most, replace=False))]


def least_alike(before: NDArray[np.float32], after: NDArray[np.float32], most: int) -> list[tuple[int, float]]:
    """Returns the new vectors with the lowest cosine to their nearest old vector: rows and cosines, lowest first."""
    if not len(before):
        return []
    nearest = (after @ before.T).max(axis=1)
    return [(int(row), float(nearest[row])) for row in np.argsort(nearest, kind="stable")[:most]]


def _energy(distances: NDArray[np.float64], labels: NDArray[np.float64], n: int, m: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the unbiased energy distance and the mean distance between the groups, for each row of `labels` (permutations, vectors)."""
    within = np.einsum("dv,dv->d", labels @ distances, labels)
    across = labels @ distances.sum(axis=1) - within
    rest = distances.sum() - 2 * across - within
    between = across / (n * m)
    return 2 * between - within / (n * (n - 1)) - rest / (m * (m - 1)), between
