"""The charts of the evaluation's page."""

from collections.abc import Sequence

from reelnest.artifacts.evaluation_report import ALL, ConfigurationResult, Interval, NegativesOutranked, Result
from reelnest.evaluation.metrics import charted_names
from reelnest.report import wording
from reelnest.report.charts.line_chart import LineChart, line_chart
from reelnest.report.charts.scatter_chart import Point, ScatterChart, scatter_chart


def quality_charts(results: Sequence[Result]) -> list[LineChart]:
    """Returns a chart for each charted metric that was measured: its value by dim, a line for each pair kind."""
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
    """How often the relevant item ranks above the listed negatives, by dim; None if no query lists negatives."""
    values: dict[str, dict[int, float]] = {}
    for entry in sorted(outranked, key=lambda entry: wording.kind_style(entry.pair_kind)):
        values.setdefault(entry.pair_kind, {})[entry.dim] = entry.value
    return line_chart("Relevant item above the listed negatives", values, reference=(0.5, "coin toss")) if values else None


def scatter_charts(configurations: Sequence[ConfigurationResult], series: Sequence[str], metric: str) -> list[ScatterChart]:
    """Returns two charts of a metric of each configuration: against its size and against its speed."""
    name = wording.metric_name(metric)
    sizes = {configuration.name: float(configuration.bytes_per_vector) for configuration in configurations}
    speeds = {configuration.name: configuration.queries_per_second for configuration in configurations}
    charts = []
    for title, cost, costs in ((f"{name} against size", "bytes a vector", sizes), (f"{name} against speed", "searches a second", speeds)):
        points: dict[str, list[Point]] = {series_name: [] for series_name in series}
        for configuration in configurations:
            if costs[configuration.name] > 0:
                point = Point(
                    configuration.name, costs[configuration.name], configuration.metrics[metric], configuration.intervals.get(metric)
                )
                points[wording.series_of(configuration)].append(point)
        joined = [series_name for series_name in series if series_name != wording.FUNNEL]
        if any(points.values()):
            charts.append(
                scatter_chart(
                    title, cost, {series_name: of_series for series_name, of_series in points.items() if of_series}, joined=joined
                )
            )
    return charts
