"""The charts of the evaluation's page."""

from collections.abc import Sequence

from reelnest.artifacts.evaluation_report import ALL, ConfigurationResult, Interval, NegativesOutranked, Result
from reelnest.evaluation.metrics import charted_names
from reelnest.report import wording
from reelnest.report.charts.line_chart import LineChart, line_chart
from reelnest.report.charts.scatter_chart import Point, ScatterChart, scatter_chart


def quality_charts(results: Sequence[Result]) -> list[LineChart]:
    """A chart for each metric that is drawn and was measured: its value by dim, a line for each pair kind."""
    charts = []
    for metric in charted_names():
        values: dict[str, dict[int, float]] = {}
        intervals: dict[str, dict[int, Interval]] = {}
        for result in results:
            if metric in result.metrics and result.pair_kind != ALL:
                values.setdefault(result.pair_kind, {})[result.dim] = result.metrics[metric]
                if metric in result.intervals:
                    intervals.setdefault(result.pair_kind, {})[result.dim] = result.intervals[metric]
        if values:
            charts.append(line_chart(wording.metric_name(metric), values, intervals=intervals))
    return charts


def negatives_chart(outranked: Sequence[NegativesOutranked]) -> LineChart | None:
    """How often the relevant item ranks above the listed negatives, by dim; None where no query has any."""
    values: dict[str, dict[int, float]] = {}
    for entry in sorted(outranked, key=lambda entry: wording.kind_style(entry.pair_kind)):
        values.setdefault(entry.pair_kind, {})[entry.dim] = entry.value
    return line_chart("Relevant item above the listed negatives", values, reference=(0.5, "coin toss")) if values else None


def scatter_charts(configurations: Sequence[ConfigurationResult], series: Sequence[str], metric: str) -> list[ScatterChart]:
    """A metric of each configuration against its size, and against its speed."""
    name = wording.metric_name(metric)
    sizes = {one.name: float(one.bytes_per_vector) for one in configurations}
    speeds = {one.name: one.queries_per_second for one in configurations}
    charts = []
    for title, cost, costs in ((f"{name} against size", "bytes a vector", sizes), (f"{name} against speed", "searches a second", speeds)):
        points: dict[str, list[Point]] = {one: [] for one in series}
        for one in configurations:
            if costs[one.name] > 0:
                point = Point(one.name, costs[one.name], one.metrics[metric], one.intervals.get(metric))
                points[wording.series_of(one)].append(point)
        joined = [one for one in series if one != wording.FUNNEL]
        if any(points.values()):
            charts.append(scatter_chart(title, cost, {one: of_series for one, of_series in points.items() if of_series}, joined=joined))
    return charts
