"""`reports/drift.html`: the drift of new data from the champion's data, and the champion's retrieval on both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reelnest.drift.paired_bars import PairedBars, of_counts, of_histogram
from reelnest.report import wording
from reelnest.report.charts.interval_bars import interval_bars
from reelnest.report.template import STYLE, source, write_page

TEMPLATE, STYLES = Path(__file__).with_name("page.html.j2"), (STYLE, Path(__file__).with_name("page.css"))
KINDS = "pair kinds"


def write_drift_page(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the page atomically. `report` is the content of `reports/drift.json`."""
    filters = {"figure": wording.figure, "signed": wording.signed, "metric": wording.metric_name, "p": _p}
    write_page(
        path,
        TEMPLATE,
        filters,
        report=report,
        title=_title(report),
        confidence=wording.percent(report["settings"]["confidence"]),
        charts=_charts(report),
        quality=_quality(report["quality"]),
        unlike={measure: items for measure, items in report["unlike"].items() if items},
        style=source(*STYLES),
    )


def _title(report: Mapping[str, Any]) -> str:
    drifted = len(report["drifted"])
    if not drifted:
        return "No drift was shown"
    return f"{drifted} of {len(report['measures'])} measures drifted"


def _charts(report: Mapping[str, Any]) -> list[PairedBars]:
    charts = [
        of_histogram(name.capitalize(), measure["histogram"], "seconds" if "seconds" in name else "characters")
        for name, measure in report["distributions"].items()
    ]
    kinds = report["pair_kinds"]
    if kinds:
        names = sorted({*kinds["before"], *kinds["after"]}, key=wording.kind_style)
        labels = {kind: wording.kind_name(kind) for kind in names}
        charts.append(of_counts(KINDS.capitalize(), kinds["before"], kinds["after"], labels))
    return charts


def _quality(quality: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Adds rows to `quality`: one for each dim and version, with bars of the intervals on a common scale."""
    if quality is None:
        return None
    metrics = [
        (by_side["dim"], side, by_side[side]) for by_side in quality["dims"] for side in ("before", "after") if by_side[side] is not None
    ]
    bars = interval_bars([(metric["value"], metric["low"], metric["high"]) for _, _, metric in metrics])
    rows = [
        {"dim": dim, "side": side, **metric, "bar": bar, "first": side == "before" or quality["queries"]["before"] is None}
        for (dim, side, metric), bar in zip(metrics, bars, strict=True)
    ]
    return {**quality, "rows": rows}


def _p(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"
