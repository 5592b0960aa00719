"""The charts of the evaluation's page."""

from collections.abc import Mapping, Sequence

from reelnest.artifacts.evaluation_report import ALL, ConfigurationResult, EvaluationReport, Interval, NegativesOutranked, Result
from reelnest.evaluation.metrics import charted_names
from reelnest.report import wording
from reelnest.report.charts.line_chart import LineChart, line_chart
from reelnest.report.charts.scatter_chart import Point, ScatterChart, scatter_chart


def quality_charts(evaluation: EvaluationReport, results: Sequence[Result]) -> list[LineChart]:
    """Returns a chart for each charted metric that was measured: its value by dim, a line for each pair kind for which it is a test."""
    charts = []
    for metric in wording.shown_metrics(charted_names(), evaluation):
        values: dict[str, dict[int, float]] = {}
        intervals: dict[str, dict[int, Interval]] = {}
        for result in results:
            if metric in result.metrics and result.pair_kind != ALL and metric not in evaluation.no_test.get(result.pair_kind, {}):
                values.setdefault(result.pair_kind, {})[result.dim] = result.metrics[metric]
                if metric in result.intervals:
                    intervals.setdefault(result.pair_kind, {})[result.dim] = result.intervals[metric]
        if values:
            charts.append(line_chart(wording.metric_name(metric), values, intervals=intervals))
    return charts


def negatives_chart(outranked: Sequence[NegativesOutranked]) -> LineChart | None:
    """Returns how often the relevant item ranks above the listed negatives, by dim; None if no query lists negatives."""
    values: dict[str, dict[int, float]] = {}
    for entry in sorted(outranked, key=lambda entry: wording.kind_style(entry.pair_kind)):
        values.setdefault(entry.pair_kind, {})[entry.dim] = entry.value
    return line_chart("Relevant item above the listed negatives", values, reference=(0.5, "coin toss")) if values else None


def scatter_charts(configurations: Sequence[ConfigurationResult], series: Sequence[str], metric: str) -> list[ScatterChart]:
    """Returns two charts of a metric of each configuration: against its size and against its speed."""
    name = wording.metric_name(metric)
    sizes = {configuration.name: float(configuration.bytes_per_vector) for configuration in configurations}
    speeds = {configuration.name: configuration.queries_per_second for configuration in configurations}
    ranges = {configuration.name: configuration.queries_per_second_range for configuration in configurations}
    by_size = _points(configurations, series, metric, sizes, {})
    joined = [series_name for series_name in series if series_name != wording.FUNNEL]
    return [
        scatter_chart(f"{name} against size", "bytes a vector", by_size, joined=joined),
        scatter_chart(f"{name} against speed", "searches a second", _points(configurations, series, metric, speeds, ranges)),
    ]


def _points(
    configurations: Sequence[ConfigurationResult],
    series: Sequence[str],
    metric: str,
    costs: Mapping[str, float],
    ranges: Mapping[str, Interval],
) -> dict[str, list[Point]]:
    points: dict[str, list[Point]] = {series_name: [] for series_name in series}
    for configuration in configurations:
        name, value, interval = configuration.name, configuration.metrics[metric], configuration.intervals.get(metric)
        points[wording.series_of(configuration)].append(Point(name, costs[name], value, interval, ranges.get(name)))
    return points
