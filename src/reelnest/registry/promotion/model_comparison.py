"""The comparison of a challenger with the champion: the metric of both on the same queries, at each dim that the champion serves.

A hard query is hard for both models, so the metrics of one query are correlated. The paired differences are therefore resampled, not the
metrics: Sakai 2006, https://doi.org/10.1145/1148170.1148261.
"""

from dataclasses import dataclass

import pandas as pd

from reelnest.artifacts.evaluation_report import Difference
from reelnest.evaluation.by_query import KEY
from reelnest.evaluation.significance import bootstrap_intervals


@dataclass(frozen=True)
class ModelComparison:
    """The differences between two models, and which of them are significant."""

    differences: tuple[Difference, ...] = ()
    """Challenger minus champion by dim, with the interval that decides `worse`."""
    worse: tuple[int, ...] = ()
    """The dims at which the challenger may be worse by more than the margin."""
    better: tuple[int, ...] = ()
    """The dims at which the challenger is significantly better."""
    problem: str = ""
    """The reason why the models cannot be compared; empty if they can."""


def compare_models(challenger: pd.DataFrame, champion: pd.DataFrame, metric: str, margin: float, confidence: float) -> ModelComparison:
    """Compares two models at the dims that the champion serves.

    One-sided bootstrap intervals over queries decide both. The challenger is not worse at a dim if the lower end of the difference is above
    -`margin`. It is better at a dim if the lower end is above 0 at a confidence with a Bonferroni correction over dims. So an equal
    challenger is better at any dim with a probability of at most 1 - `confidence`.

    Args:
        challenger: a row for each pair kind, query and dim, with a column for each metric (`reports/queries.parquet`).
        champion: the same table of the champion, on the same queries.
        metric: a mean over queries; higher is better.
        margin: in the metric's unit.
        confidence: such as 0.95.
    """
    ours, theirs = (table.pivot(index=KEY, columns="dim", values=metric).sort_index() for table in (challenger, champion))
    if not ours.index.equals(theirs.index):
        return ModelComparison(problem="not comparable: the champion was evaluated on other queries")
    missing = sorted(set(theirs.columns) - set(ours.columns))
    if missing:
        return ModelComparison(problem=f"the champion serves dim {', '.join(map(str, missing))}, which this model was not trained for")
    dims = sorted(map(int, theirs.columns))
    by_dim = {dim: (ours[dim] - theirs[dim]).to_numpy() for dim in dims}
    risk = 1 - confidence
    ends = bootstrap_intervals(by_dim, confidence=1 - 2 * risk)
    strict = bootstrap_intervals(by_dim, confidence=1 - 2 * risk / len(dims))
    return ModelComparison(
        tuple(Difference(dim=dim, value=float(by_dim[dim].mean()), low=ends[dim][0], high=ends[dim][1]) for dim in dims),
        worse=tuple(dim for dim in dims if ends[dim][0] < -margin),
        better=tuple(dim for dim in dims if strict[dim][0] > 0),
    )
