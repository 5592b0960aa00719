"""How the page names and writes what the reports hold."""

from collections.abc import Mapping, Sequence
from typing import Any

from reelnest.evaluation.metrics import METRICS, metric_names

ALL = "all"
KINDS = ("text_to_video", "video_to_text", "text_to_text", "video_to_video", ALL)
"""Order of the pair kinds on the page; a kind's place gives its colour and its mark."""
FUNNEL = "funnel"
SERIES = ("float32", "int8", "binary", "binary_int8", FUNNEL, "float16")
"""Of configurations: storage types, and funnels, which may use any of these; a place gives a colour and a mark."""


def figure(value: float | None, metric: str = "") -> str:
    """Three decimals; a median, which is a rank, as it is."""
    if value is None:
        return "–"
    is_median = metric in METRICS and METRICS[metric].reduce == "median"
    return f"{value:g}" if is_median else f"{value:.3f}"


def signed(value: float) -> str:
    """A difference, with a true minus sign."""
    return f"{value:+.3f}".replace("-", "−")


def percent(share: float | None) -> str:
    """A confidence."""
    return "" if share is None else f"{100 * share:g}\u00a0%"


def size(count: float) -> str:
    """Bytes, in the unit in which they are a small number."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:,.0f} B"


def metric_name(name: str) -> str:
    """As papers write it."""
    return METRICS[name].title if name in METRICS else name


def metrics_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that were measured: the table's in its order, then others."""
    found = {name for result in results for name in result["metrics"]}
    return [*(name for name in metric_names() if name in found), *sorted(found.difference(METRICS))]


def kind_style(kind: str) -> int:
    """Number of a pair kind's colour and mark, from 0."""
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def kind_name(kind: str) -> str:
    """`text→video`."""
    return "all" if kind == ALL else kind.replace("_to_", "→")


def series_of(configuration: Mapping[str, Any]) -> str:
    """The storage type, or FUNNEL: what gives a configuration its colour and mark."""
    return FUNNEL if configuration["funnel"] else str(configuration["storage"])


def series_style(series: str) -> int:
    """Number of a storage type's colour and mark, from 0."""
    return SERIES.index(series) if series in SERIES else len(SERIES)


def words(name: str) -> str:
    """A key of a report as text."""
    return name.replace("_to_", "→").replace("_", " ")
