"""`reports/drift.html`: whether new data is still what the champion was trained on, and what the champion finds in it."""

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
    """Writes the page, whole or not at all. `report` is what `reports/drift.json` holds."""
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
    found = [of_histogram(name.capitalize(), one["histogram"]) for name, one in report["distributions"].items()]
    kinds = report["pair_kinds"]
    if kinds:
        names = sorted({*kinds["before"], *kinds["after"]}, key=wording.kind_style)
        called = {kind: wording.kind_name(kind) for kind in names}
        found.append(of_counts(KINDS.capitalize(), kinds["before"], kinds["after"], called))
    return found


def _quality(quality: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A row for each dim, with the two intervals on one scale."""
    if quality is None:
        return None
    rows = [(one["dim"], side, one[side]) for one in quality["dims"] for side in ("before", "after") if one[side] is not None]
    bars = interval_bars([(found["value"], found["low"], found["high"]) for _, _, found in rows])
    drawn = [
        {"dim": dim, "side": side, **found, "bar": bar, "first": side == "before" or quality["queries"]["before"] is None}
        for (dim, side, found), bar in zip(rows, bars, strict=True)
    ]
    return {**quality, "rows": drawn}


def _p(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"
