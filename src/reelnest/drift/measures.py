"""Whether two versions of the data come from one distribution: each measure with a two-sample test and the size of its effect.

With enough data every difference is significant, and with little data every effect is large by chance. So a measure has drifted where both
hold: the difference is shown at the confidence that was asked for, all measures taken together (Bonferroni), and its effect reaches the
margin. Items that both versions hold make the tests more careful, never less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from scipy.stats import chi2_contingency, ks_2samp, mannwhitneyu
from scipy.stats.contingency import association

PERMUTATIONS = 9_999
"""Enough for the smallest p-value that `drift.confidence` can ask for, shared among ten measures."""
AT_ONCE = 500
BINS = 24
LAST_BIN_FROM = 0.99
"""Quantile of all values: a few very long ones would leave the rest one bin."""
FEWEST = 2
"""Values of a version without which nothing is compared."""


@dataclass(frozen=True)
class Shift:
    """How far a measure of the new data is from what it was. Effects lie between 0 (the same) and 1."""

    measure: str
    statistic: str
    """What the effect is."""
    effect: float
    p: float
    before: int
    after: int
    """Values compared."""
    margin: float
    """What the effect has to reach."""


@dataclass(frozen=True)
class Verdict:
    """A shift among all that were looked at."""

    shift: Shift
    adjusted: float
    """The p-value times the number of measures."""
    drifted: bool


def judge(shifts: Sequence[Shift], confidence: float) -> list[Verdict]:
    """Whether each has drifted. Of data that is the same, 1 - `confidence` at most are said to have drifted anywhere."""
    adjusted = [min(1.0, shift.p * len(shifts)) for shift in shifts]
    return [Verdict(shift, p, p <= 1 - confidence and shift.effect >= shift.margin) for shift, p in zip(shifts, adjusted, strict=True)]


def numbers_shift(measure: str, before: ArrayLike, after: ArrayLike, margin: float) -> Shift | None:
    """Kolmogorov and Smirnov's: the largest distance between the two cumulative distributions."""
    earlier, later = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if min(len(earlier), len(later)) < FEWEST:
        return None
    test = ks_2samp(earlier, later, method="asymp")
    return Shift(measure, "Kolmogorov-Smirnov D", float(test.statistic), float(test.pvalue), len(earlier), len(later), margin)


def counts_shift(measure: str, before: Mapping[str, int], after: Mapping[str, int], margin: float) -> Shift | None:
    """The chi-squared test of the two versions' counts, and Cramér's V."""
    kinds = sorted({*before, *after})
    table = np.array([[side.get(kind, 0) for kind in kinds] for side in (before, after)])
    if min(table.sum(axis=1), default=0) < FEWEST:
        return None
    same = len(kinds) == 1
    p = 1.0 if same else float(chi2_contingency(table, correction=False).pvalue)
    effect = 0.0 if same else float(association(table, method="cramer"))
    return Shift(measure, "Cramér's V", effect, p, int(table[0].sum()), int(table[1].sum()), margin)


def vectors_shift(measure: str, before: NDArray[np.float32], after: NDArray[np.float32], margin: float) -> Shift | None:
    """The energy test: how much farther apart vectors of different versions are than vectors of one, against labels dealt out anew.

    Székely and Rizzo 2013, https://doi.org/10.1016/j.jspi.2013.03.018. It is the maximum mean discrepancy with the distance as its kernel
    (Sejdinovic et al. 2013, https://doi.org/10.1214/13-AOS1140), so there is no bandwidth to choose. The effect is the root of the energy
    distance's share of the distance between the versions, without what chance adds to it: the size of Kolmogorov and Smirnov's, about.

    Args:
        measure: its name.
        before: (vectors, dim), of unit length.
        after: the same of the new data.
        margin: what the effect has to reach.
    """
    n, m = len(before), len(after)
    if min(n, m) < FEWEST:
        return None
    everything = np.concatenate([before, after]).astype(np.float64)
    distances = cdist(everything, everything)
    labels = np.zeros(n + m)
    labels[:n] = 1
    (energy,), (between,) = _energy(distances, labels[None], n, m)
    random = np.random.default_rng([n, m])
    as_far = 0
    for start in range(0, PERMUTATIONS, AT_ONCE):
        dealt = random.permuted(np.tile(labels, (min(AT_ONCE, PERMUTATIONS - start), 1)), axis=1)
        as_far += int((_energy(distances, dealt, n, m)[0] >= energy - 1e-12).sum())
    effect = float(np.sqrt(max(0.0, energy) / (2 * between))) if between > 0 else 0.0
    return Shift(measure, "energy effect", min(1.0, effect), (1 + as_far) / (1 + PERMUTATIONS), n, m, margin)


def fall(measure: str, before: ArrayLike, after: ArrayLike, margin: float) -> Shift | None:
    """Mann and Whitney's test of whether queries fare worse than they did, and by how much on average."""
    earlier, later = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if min(len(earlier), len(later)) < FEWEST:
        return None
    p = mannwhitneyu(later, earlier, alternative="less", method="asymptotic").pvalue
    return Shift(measure, "fall of the mean", max(0.0, float(earlier.mean() - later.mean())), float(p), len(earlier), len(later), margin)


def histogram(before: ArrayLike, after: ArrayLike) -> dict[str, list[float]]:
    """The share of each version's values in bins that both have in common; the last bin holds all that is above it too."""
    sides = {"before": np.asarray(before, np.float64), "after": np.asarray(after, np.float64)}
    everything = np.concatenate(list(sides.values()))
    low, top = float(everything.min()), float(np.quantile(everything, LAST_BIN_FROM))
    if (everything == np.floor(everything)).all():
        # As wide as whole numbers are apart, or some bins would hold one number more than others.
        step = max(1.0, np.ceil((top - low) / BINS))
        edges = np.arange(low, max(top, low + 1) + step, step)
    else:
        edges = np.linspace(low, max(top, low + 1e-9), BINS + 1)
    shares = {name: np.histogram(np.minimum(side, edges[-1]), edges)[0] / max(1, len(side)) for name, side in sides.items()}
    return {"edges": edges.tolist(), **{name: side.tolist() for name, side in shares.items()}}


def sampled(ids: Sequence[str], most: int) -> list[str]:
    """At most so many, drawn without regard to their order in the file; the same ones of the same ids."""
    ordered = sorted(ids)
    if len(ordered) <= most:
        return ordered
    return [ordered[at] for at in sorted(np.random.default_rng(len(ordered)).choice(len(ordered), most, replace=False))]


def least_alike(before: NDArray[np.float32], after: NDArray[np.float32], most: int) -> list[tuple[int, float]]:
    """The new vectors whose nearest old one is farthest: rows and cosines, the least alike first."""
    if not len(before):
        return []
    nearest = (after @ before.T).max(axis=1)
    return [(int(row), float(nearest[row])) for row in np.argsort(nearest, kind="stable")[:most]]


def _energy(distances: NDArray[np.float64], labels: NDArray[np.float64], n: int, m: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each deal of labels (deals, vectors): the energy distance, without bias, and the mean distance between the two groups."""
    within = np.einsum("dv,dv->d", labels @ distances, labels)
    across = labels @ distances.sum(axis=1) - within
    rest = distances.sum() - 2 * across - within
    between = across / (n * m)
    return 2 * between - within / (n * (n - 1)) - rest / (m * (m - 1)), between
