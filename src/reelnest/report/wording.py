"""Names and number formats of the evaluation page."""

from collections.abc import Iterable, Sequence

from reelnest.artifacts.evaluation_report import ALL, ConfigurationResult, EvaluationReport, Measured
from reelnest.evaluation.metrics import METRICS, metric_names
from reelnest.search.storage_types import BITS, STORAGE_TYPES, bytes_per_vector

KINDS = ("text_to_video", "video_to_text", "text_to_text", "video_to_video", ALL)
"""The pair kinds in the page's order, which also determines their colours and marks."""
FUNNEL = "funnel"
SERIES = ("float32", "int8", "binary", "binary_int8", FUNNEL, "float16")
"""Series of configurations: the storage types, and funnels of any storage type. The order determines colours and marks."""


def figure(value: float | None, metric: str = "") -> str:
    """Returns a value with three decimals; a median, which is a rank, without rounding."""
    if value is None:
        return "–"
    is_median = metric in METRICS and METRICS[metric].reduce == "median"
    return f"{value:g}" if is_median else f"{value:.3f}"


def signed(value: float) -> str:
    """Returns a difference, with a true minus sign."""
    return f"{value:+.3f}".replace("-", "−")


def percent(share: float | None) -> str:
    """Returns a share as a percentage, such as `95 %`; empty for None."""
    return "" if share is None else f"{100 * share:g}\u00a0%"


def size(count: float) -> str:
    """Returns a number of bytes in a suitable unit."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:,.0f} B"


def metric_name(name: str) -> str:
    """Returns the metric's name as papers write it."""
    return METRICS[name].title if name in METRICS else name


def metrics_of(results: Sequence[Measured]) -> list[str]:
    """Returns the metrics that were measured: those of the metric table in its order, then others."""
    names = {name for result in results for name in result.metrics}
    return [*(name for name in metric_names() if name in names), *sorted(names.difference(METRICS))]


def shown_metrics(names: Sequence[str], evaluation: EvaluationReport) -> list[str]:
    """Returns those of the metrics that can differ on this data and do not repeat another one (`only_if_capped`)."""
    no_test, best = evaluation.no_test.get(ALL, {}), evaluation.best_possible.get(ALL, {})
    capped = {name for name, value in best.items() if value < 1}
    return [name for name in names if name not in no_test and METRICS[name].only_if_capped in (None, *capped)]


def kind_style(kind: str) -> int:
    """Returns the number of a pair kind's colour and mark, from 0."""
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def kind_name(kind: str) -> str:
    """Returns the name of a pair kind, such as `text→video`."""
    return "all" if kind == ALL else kind.replace("_to_", "→")


def series_of(configuration: ConfigurationResult) -> str:
    """Returns the storage type, or FUNNEL. It determines a configuration's colour and mark."""
    return FUNNEL if configuration.funnel else configuration.storage


def series_style(series: str) -> int:
    """Returns the number of a series' colour and mark, from 0."""
    return SERIES.index(series) if series in SERIES else len(SERIES)


def storage_note(storages: Iterable[str]) -> str:
    """Returns what a dimension takes in each storage type, such as `A dimension takes 32 bits as float32, 8 bits as int8.`"""
    bits = {storage: bytes_per_vector(BITS, storage) for storage in storages if storage in STORAGE_TYPES}
    sizes = ", ".join(f"{size} bit{'' if size == 1 else 's'} as {storage}" for storage, size in bits.items())
    return f"A dimension takes {sizes}." if sizes else ""


def configuration_name(name: str) -> str:
    """Returns `64 dims, int8` for `64 int8`. The name of a funnel contains its dims."""
    first, *rest = name.split(" ")
    dims, storage = (f"{first} dims", rest) if first.isdecimal() else (" ".join([first, *rest[:1]]), rest[1:])
    return ", ".join([dims, *storage])


def words(name: str) -> str:
    """Returns a key or a slice name of a report as text."""
    return name.replace("_to_", "→").replace("_", " ")
