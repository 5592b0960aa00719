"""The rows of the evaluation page's tables."""

from dataclasses import dataclass

from reelnest.artifacts.evaluation_report import ALL, BehaviourFailure, BehaviourResults, EvaluationReport, Interval, SliceResult
from reelnest.evaluation.metrics import METRICS, charted_names
from reelnest.report import wording
from reelnest.report.charts.interval_bars import Bar, interval_bars

SHOWN_FAILURES = 20
"""Failed behaviour tests on the page; `evaluation.json` has more."""


@dataclass(frozen=True)
class DifferenceRow:
    """A difference at one dim."""

    dim: int
    value: float
    low: float
    high: float
    bar: Bar

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `same`."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "same"


@dataclass(frozen=True)
class Comparison:
    """This model minus an earlier one."""

    title: str
    metric: str
    rows: tuple[DifferenceRow, ...]


@dataclass(frozen=True)
class SliceValue:
    """A metric of a slice at one dim."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class SliceRow:
    """A slice's value, with its metric at each dim."""

    name: str
    queries: int
    is_small: bool
    bar_dim: int
    bar: Bar
    """At the smallest dim, where slices differ most."""
    by_dim: tuple[SliceValue, ...]


@dataclass(frozen=True)
class BehaviourRow:
    """The tests of one kind, or all tests, and the share that passes at each dim."""

    kind: str
    tests: int
    shares: tuple[float, ...]


@dataclass(frozen=True)
class BehaviourTable:
    """The behaviour tests."""

    dims: tuple[int, ...]
    rows: tuple[BehaviourRow, ...]
    failures: tuple[BehaviourFailure, ...]
    more: int
    """Failures that are not listed."""


def comparisons(evaluation: EvaluationReport) -> list[Comparison]:
    """Returns a table for each earlier model that this one was compared with."""
    tables = []
    for compared in evaluation.compared_with:
        differences = compared.differences
        bars = interval_bars([(difference.value, difference.low, difference.high) for difference in differences], around_zero=True)
        rows = tuple(
            DifferenceRow(difference.dim, difference.value, difference.low, difference.high, bar)
            for difference, bar in zip(differences, bars, strict=True)
        )
        which = f"version {compared.version}" if compared.version is not None else compared.run_id
        tables.append(Comparison(f"Against the {compared.what}, {which}", compared.metric, rows))
    return tables


def slice_rows(evaluation: EvaluationReport) -> tuple[list[int], list[SliceRow]]:
    """Returns the dims, and a row for each slice with the metric of the charts at each dim."""
    metric = evaluation.metric
    by_name: dict[str, dict[int, SliceResult]] = {}
    for entry in evaluation.slices:
        if metric in entry.metrics:
            by_name.setdefault(f"{entry.slice}: {entry.value}", {})[entry.dim] = entry
    dims = sorted({dim for by_dim in by_name.values() for dim in by_dim})
    values = {
        name: tuple(SliceValue(by_dim[dim].metrics[metric], by_dim[dim].intervals.get(metric)) for dim in dims)
        for name, by_dim in by_name.items()
    }
    ends = [(first.value, *(first.interval or (first.value, first.value))) for first, *_ in values.values()]
    rows = [
        SliceRow(name, by_dim[dims[0]].queries, by_dim[dims[0]].small, dims[0], bar, values[name])
        for (name, by_dim), bar in zip(by_name.items(), interval_bars(ends), strict=True)
    ]
    return dims, rows


def untested(evaluation: EvaluationReport) -> list[str]:
    """Returns a sentence for each pair kind and reason for which metrics are no test."""
    sentences = []
    for kind, reasons in evaluation.no_test.items():
        for reason in dict.fromkeys(reasons.values()) if kind != ALL else ():
            named = [wording.metric_name(metric) for metric, why in reasons.items() if why == reason]
            subject = "No metric is a test" if len(named) == len(METRICS) else f"{', '.join(named)}: no test"
            sentences.append(f"{subject} for {wording.kind_name(kind)}: {reason}.")
    return sentences


def capped(evaluation: EvaluationReport) -> list[str]:
    """Returns a sentence for each metric of the charts that even a perfect search does not bring to 1."""
    sentences = []
    for metric in charted_names():
        best = {kind: values[metric] for kind, values in evaluation.best_possible.items() if values[metric] < 1 and kind != ALL}
        if best and METRICS[metric].is_comparable:
            listed = ", ".join(f"{wording.figure(value)} for {wording.kind_name(kind)}" for kind, value in best.items())
            sentences.append(f"{wording.metric_name(metric)} of a perfect search: {listed}, because queries have several relevant items.")
    return sentences


def behaviour_table(behaviour: BehaviourResults) -> BehaviourTable | None:
    """Returns a row for each kind of tests and one for all; None if there are no tests."""
    if not behaviour.tests:
        return None
    dims = behaviour.dims
    rows = [
        BehaviourRow(kind, tests, tuple(behaviour.passed_by_kind[str(dim)][kind] for dim in dims))
        for kind, tests in behaviour.by_kind.items()
    ]
    rows.append(BehaviourRow(ALL, behaviour.tests, tuple(behaviour.passed[str(dim)] for dim in dims)))
    listed = behaviour.failures[:SHOWN_FAILURES]
    return BehaviourTable(tuple(dims), tuple(rows), listed, behaviour.failed - len(listed))
