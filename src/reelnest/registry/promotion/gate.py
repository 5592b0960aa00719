"""What a challenger has to fulfil to become champion, first of all beside the champion: what both found for the same queries, at each dim.

The two models' figures of one query depend on each other (a hard query is hard for both), so their differences are resampled, not the
figures: Sakai 2006, https://doi.org/10.1145/1148170.1148261. No MLflow here: what is compared is read elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reelnest.evaluation.significance import bootstrap_intervals

KEY = ["pair_kind", "query"]


@dataclass(frozen=True)
class Difference:
    """Challenger minus champion at one dim, and its interval at the gate's confidence."""

    dim: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Condition:
    """One of the things that a challenger has to fulfil."""

    name: str
    passed: bool | None
    """None: not looked at, since one before it does not hold."""
    why: str


@dataclass(frozen=True)
class Comparison:
    """Whether a challenger is as good everywhere and better somewhere."""

    conditions: tuple[Condition, ...]
    differences: tuple[Difference, ...] = ()
    figures: str = ""
    """The differences in words."""


VALIDATION, BEHAVIOUR, NOWHERE_WORSE, SOMEWHERE_BETTER = "validation", "behaviour", "nowhere worse", "somewhere better"


def compare_models(challenger: pd.DataFrame, champion: pd.DataFrame, metric: str, margin: float, confidence: float) -> Comparison:
    """Looks for a challenger that is nowhere worse by more than `margin`, and somewhere better, at the dims that the champion serves.

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
        return Comparison((Condition(NOWHERE_WORSE, False, "not comparable: the champion was evaluated on other queries"),))
    missing = sorted(set(theirs.columns) - set(ours.columns))
    if missing:
        dropped = f"the champion serves dim {', '.join(map(str, missing))}, which this model was not trained for"
        return Comparison((Condition(NOWHERE_WORSE, False, dropped),))
    dims = sorted(map(int, theirs.columns))
    by_dim = {dim: (ours[dim] - theirs[dim]).to_numpy() for dim in dims}
    risk = 1 - confidence
    ends = bootstrap_intervals(by_dim, confidence=1 - 2 * risk)
    strict = bootstrap_intervals(by_dim, confidence=1 - 2 * risk / len(dims))
    found = tuple(Difference(dim, float(by_dim[dim].mean()), *ends[dim]) for dim in dims)
    worse = [one for one in found if one.low < -margin]
    better = [one for one in found if strict[one.dim][0] > 0]
    as_good = f"nowhere worse by {margin:g}" if not worse else f"not shown to be as good at dim {_named(worse)} (by {margin:g})"
    gain = f"better at dim {_named(better)}" if better else "nowhere shown to be better"
    by_dim_shown = "; ".join(f"{one.dim}: {one.value:+.4f} ({one.low:+.4f} to {one.high:+.4f})" for one in found)
    return Comparison(
        (Condition(NOWHERE_WORSE, not worse, as_good), Condition(SOMEWHERE_BETTER, bool(better), gain)),
        found,
        f"{metric} minus the champion's by dim, {len(ours)} queries: {by_dim_shown}",
    )


def behaviour_condition(found: Mapping[str, Any] | None, asked: Mapping[str, float]) -> Condition:
    """Whether the tests of each kind passed at each dim.

    Args:
        found: `behaviour` of `reports/evaluation.json`; None in one without.
        asked: by kind, the share that has to pass.
    """
    if found is None or not found["tests"]:
        return Condition(BEHAVIOUR, True, "there are no behaviour tests (data/behaviour.jsonl)")
    short = [
        f"{kind} {share:.2f} at dim {dim} ({asked[kind]:g} is asked for)"
        for dim, shares in found["passed_by_kind"].items()
        for kind, share in shares.items()
        if share < asked[kind]
    ]
    if short:
        return Condition(BEHAVIOUR, False, f"of the behaviour tests too few pass: {', '.join(short)}")
    return Condition(BEHAVIOUR, True, f"of {found['tests']} behaviour tests enough of each kind pass at each dim")


def validation_condition(passed: bool | None) -> Condition:
    """Whether the data was found good; None where no report says so."""
    if passed is None:
        return Condition(VALIDATION, False, "no reports/validation.json says that the data is good: run `reelnest validate`")
    return Condition(
        VALIDATION, passed, "the data was found good" if passed else "the validation of the data failed (reports/validation.json)"
    )


def _named(differences: list[Difference]) -> str:
    return ", ".join(str(one.dim) for one in differences)
