"""Whether a challenger becomes champion: by what both found for the same queries, at each dim.

The two models' figures of one query depend on each other (a hard query is hard for both), so their differences are resampled, not the
figures: Sakai 2006, https://doi.org/10.1145/1148170.1148261. No MLflow here: what is compared is read elsewhere.
"""

from dataclasses import dataclass

import pandas as pd

from reelnest.search.significance import bootstrap_intervals

KEY = ["pair_kind", "query"]


@dataclass(frozen=True)
class Difference:
    """Challenger minus champion at one dim, and its interval at the gate's confidence."""

    dim: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """What the gate decides, and why."""

    promoted: bool
    reason: str
    differences: tuple[Difference, ...] = ()


def judge(challenger: pd.DataFrame, champion: pd.DataFrame, metric: str, margin: float, confidence: float) -> Verdict:
    """Promotes a challenger that is nowhere worse by more than `margin`, and somewhere better, at the dims that the champion serves.

    Both are shown by one-sided bootstrap intervals over queries: of the difference at each dim, the lower end lies above -`margin`, and at
    one dim, at a confidence that allows for looking at all of them (Bonferroni), above 0. So of equal challengers 1 - `confidence` are
    promoted at most.

    Args:
        challenger: a row for each pair kind, query and dim, with a column for each metric (`reports/queries.parquet`).
        champion: the same of the champion, on the same queries.
        metric: a mean over queries; higher is better.
        margin: in the metric's unit.
        confidence: such as 0.95.
    """
    ours, theirs = (table.pivot(index=KEY, columns="dim", values=metric).sort_index() for table in (challenger, champion))
    if not ours.index.equals(theirs.index):
        return Verdict(False, "not comparable: the champion was evaluated on other queries")
    missing = sorted(set(theirs.columns) - set(ours.columns))
    if missing:
        return Verdict(False, f"the champion serves dim {', '.join(map(str, missing))}, which this model was not trained for")
    dims = sorted(map(int, theirs.columns))
    by_dim = {dim: (ours[dim] - theirs[dim]).to_numpy() for dim in dims}
    risk = 1 - confidence
    ends = bootstrap_intervals(by_dim, confidence=1 - 2 * risk)
    strict = bootstrap_intervals(by_dim, confidence=1 - 2 * risk / len(dims))
    found = tuple(Difference(dim, float(by_dim[dim].mean()), *ends[dim]) for dim in dims)
    worse = [one for one in found if one.low < -margin]
    better = [one for one in found if strict[one.dim][0] > 0]
    if worse:
        why = f"not shown to be as good at dim {_named(worse)} (by {margin:g})"
    elif better:
        why = f"better at dim {_named(better)}, nowhere worse by {margin:g}"
    else:
        why = "nowhere shown to be better"
    figures = "; ".join(f"{one.dim}: {one.value:+.4f} ({one.low:+.4f} to {one.high:+.4f})" for one in found)
    return Verdict(bool(better) and not worse, f"{why}. {metric} minus the champion's by dim, {len(ours)} queries: {figures}", found)


def _named(differences: list[Difference]) -> str:
    return ", ".join(str(one.dim) for one in differences)
