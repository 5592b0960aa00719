"""`reports/evaluation.html`: what a model finds and what each size of it costs, for people to look at.

Without its script the page still says all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reelnest.evaluation.metrics import charted_names, headline_names
from reelnest.report import wording
from reelnest.report.charts.interval_bars import interval_bars
from reelnest.report.charts.line_chart import LineChart, line_chart
from reelnest.report.charts.scatter_chart import Point, ScatterChart, scatter_chart
from reelnest.report.gallery import ConfusedVideo, GalleryQuery
from reelnest.report.headline import headline
from reelnest.report.pictures import strip
from reelnest.report.template import STYLE, source, write_page

TEMPLATE, SCRIPT = (Path(__file__).with_name(f"evaluation_page.{kind}") for kind in ("html.j2", "js"))
SHOWN_FAILURES = 20
"""Behaviour tests that did not pass; `evaluation.json` has more."""


def write_evaluation_page(
    path: Path, evaluation: Mapping[str, Any], gallery: Sequence[GalleryQuery] = (), confused: Sequence[ConfusedVideo] = ()
) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: Where the page goes.
        evaluation: What `reports/evaluation.json` holds.
        gallery: Queries to show with their best answers.
        confused: Videos that stand first where another was wanted.
    """
    shown = {**_figures(evaluation), **_configurations(evaluation), **_comparisons(evaluation), **_slices(evaluation)}
    shown |= {**_behaviour(evaluation), "gallery": gallery, "confused": confused}
    filters = {
        "figure": wording.figure,
        "signed": wording.signed,
        "size": wording.size,
        "kind": wording.kind_name,
        "kind_style": wording.kind_style,
        "series_style": wording.series_style,
        "metric": wording.metric_name,
        "words": wording.words,
        "strip": strip,
    }
    write_page(
        path,
        TEMPLATE,
        filters,
        evaluation=evaluation,
        headline=headline(evaluation),
        choice=evaluation["choice"],
        confidence=wording.percent(evaluation["confidence"]),
        sections=_sections(shown),
        gallery_kinds=list(dict.fromkeys(query.pair_kind for query in gallery)),
        gallery_slices=list(dict.fromkeys(name for query in gallery for name in query.slices)),
        style=source(STYLE),
        script=source(SCRIPT),
        **shown,
    )


def _sections(shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Anchor and name of each section that there is, in the page's order."""
    sections = (
        ("dims", "Quality by dim", "line_charts"),
        ("size", "Size and speed", "configurations"),
        ("before", "Champion and previous run", "comparisons"),
        ("slices", "Parts of the queries", "slices"),
        ("behaviour", "Behaviour tests", "behaviour"),
        ("negatives", "Nearly right", "negatives_chart"),
        ("all", "All figures", "results"),
        ("queries", "Searches up close", "gallery"),
        ("confused", "Confused videos", "confused"),
    )
    return [(anchor, name) for anchor, name, key in sections if shown[key] or (key == "comparisons" and shown["not_compared"])]


def _figures(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Of the exact search with whole numbers: charts and the table of all figures."""
    results = sorted(evaluation["results"], key=lambda result: (wording.kind_style(result["pair_kind"]), result["dim"]))
    return {
        "results": results,
        "kinds": list(dict.fromkeys(result["pair_kind"] for result in results)),
        "metrics": wording.metrics_of(results),
        "line_charts": _line_charts(results),
        "negatives_chart": _negatives_chart(evaluation["negatives_outranked"]),
    }


def _line_charts(results: Sequence[Mapping[str, Any]]) -> list[LineChart]:
    """A chart for each metric that was measured."""
    charts = []
    for metric in charted_names():
        values: dict[str, dict[int, float]] = {}
        intervals: dict[str, dict[int, tuple[float, float]]] = {}
        for result in results:
            if metric in result["metrics"] and result["pair_kind"] != wording.ALL:
                values.setdefault(result["pair_kind"], {})[result["dim"]] = result["metrics"][metric]
                if metric in result["intervals"]:
                    low, high = result["intervals"][metric]
                    intervals.setdefault(result["pair_kind"], {})[result["dim"]] = (low, high)
        if values:
            charts.append(line_chart(wording.metric_name(metric), values, intervals=intervals))
    return charts


def _negatives_chart(outranked: Sequence[Mapping[str, Any]]) -> LineChart | None:
    values: dict[str, dict[int, float]] = {}
    for entry in sorted(outranked, key=lambda entry: wording.kind_style(entry["pair_kind"])):
        values.setdefault(entry["pair_kind"], {})[entry["dim"]] = entry["value"]
    return line_chart("Named wrong answers outranked", values, reference=(0.5, "coin toss")) if values else None


def _configurations(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Ways to store and to search: the smallest first."""
    found = sorted(evaluation["configurations"], key=lambda one: (one["bytes_per_vector"], bool(one["funnel"]), one["name"]))
    series = sorted({wording.series_of(one) for one in found}, key=wording.series_style)
    measured = wording.metrics_of(found)
    return {
        "configurations": found,
        "series": series,
        "configuration_metrics": [name for name in headline_names() if name in measured],
        "untrained": evaluation["untrained_dims"],
        "scatter_charts": _scatter_charts(found, series, evaluation["choice"]["metric"]) if found else [],
    }


def _scatter_charts(configurations: Sequence[Mapping[str, Any]], series: Sequence[str], metric: str) -> list[ScatterChart]:
    name = wording.metric_name(metric)
    charts = []
    for title, cost, key in (
        (f"{name} against size", "bytes a vector", "bytes_per_vector"),
        (f"{name} against speed", "searches a second", "queries_per_second"),
    ):
        points: dict[str, list[Point]] = {one: [] for one in series}
        for one in configurations:
            if one[key] > 0:
                ends = one["intervals"].get(metric)
                points[wording.series_of(one)].append(Point(one["name"], one[key], one["metrics"][metric], tuple(ends) if ends else None))
        joined = [one for one in series if one != wording.FUNNEL]
        if any(points.values()):
            charts.append(scatter_chart(title, cost, {one: found for one, found in points.items() if found}, joined=joined))
    return charts


def _comparisons(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    comparisons = []
    for compared in evaluation["compared_with"]:
        differences = compared["differences"]
        bars = interval_bars([(one["value"], one["low"], one["high"]) for one in differences], around_zero=True)
        rows = [
            {**one, "bar": bar, "verdict": "better" if one["low"] > 0 else "worse" if one["high"] < 0 else "same"}
            for one, bar in zip(differences, bars, strict=True)
        ]
        version = f", version {compared['version']}" if compared["version"] is not None else f", {compared['run_id']}"
        comparisons.append({"title": f"Against the {compared['what']}{version}", "metric": compared["metric"], "rows": rows})
    return {"comparisons": comparisons, "not_compared": evaluation["not_compared"]}


def _slices(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """A row for each slice's value with its figure at each dim; the bar is of the smallest of these, where parts differ most."""
    metric = evaluation["choice"]["metric"]
    rows: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for entry in evaluation["slices"]:
        if metric in entry["metrics"]:
            rows.setdefault((entry["slice"], str(entry["value"])), {})[entry["dim"]] = entry
    dims = sorted({dim for by_dim in rows.values() for dim in by_dim})
    found = [
        {
            "slice": name,
            "value": value,
            "queries": by_dim[dims[0]]["queries"],
            "is_small": by_dim[dims[0]]["small"],
            "bar_dim": dims[0],
            "by_dim": [{"value": by_dim[dim]["metrics"][metric], "interval": by_dim[dim]["intervals"].get(metric)} for dim in dims],
        }
        for (name, value), by_dim in rows.items()
    ]
    ends = [(row["by_dim"][0]["value"], *(row["by_dim"][0]["interval"] or 2 * [row["by_dim"][0]["value"]])) for row in found]
    return {"slice_dims": dims, "slices": [{**row, "bar": bar} for row, bar in zip(found, interval_bars(ends), strict=True)]}


def _behaviour(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """A row for each kind of tests and one for all, by dim; None where there are no tests."""
    found = evaluation["behaviour"]
    if not found["tests"]:
        return {"behaviour": None}
    dims = sorted(found["passed"], key=int)
    by_kind = [
        {"kind": kind, "tests": tests, "shares": [found["passed_by_kind"][dim][kind] for dim in dims]}
        for kind, tests in found["by_kind"].items()
    ]
    everything = {"kind": wording.ALL, "tests": found["tests"], "shares": [found["passed"][dim] for dim in dims]}
    failures = found["failures"]
    more = found["failed"] - len(failures[:SHOWN_FAILURES])
    return {"behaviour": {"dims": dims, "rows": [*by_kind, everything], "failures": failures[:SHOWN_FAILURES], "more": more}}
