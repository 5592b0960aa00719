"""`reports/evaluation.html`: what a model finds, for people to look at.

One file that needs nothing else: no script, no network. Its security policy says so too, should a text of the data ever try.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from reelnest.data.whole_files import write_lines
from reelnest.report.gallery import GalleryQuery
from reelnest.report.line_chart import LineChart, line_chart

TEMPLATE = "evaluation_page.html.j2"
ALL = "all"
KINDS = ("text_to_video", "video_to_text", "text_to_text", "video_to_video", ALL)
"""Order of the pair kinds on the page; a kind's place gives its colour and its mark."""
CHARTS = {"recall@1": "Recall@1", "recall@10": "Recall@10", "mrr": "MRR", "ndcg@10": "nDCG@10"}
METRIC_NAMES = {**CHARTS, "recall@5": "Recall@5", "map": "MAP", "median_rank": "Median rank"}
METRIC_ORDER = ("recall@1", "recall@5", "recall@10", "mrr", "ndcg@10", "map", "median_rank")
JPEG_QUALITY = 82


def write_evaluation_page(path: Path, evaluation: Mapping[str, Any], gallery: Sequence[GalleryQuery]) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: Where the page goes.
        evaluation: What `reports/evaluation.json` holds.
        gallery: Queries to show with the frames of their best answers.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.filters["figure"] = _figure
    environment.filters["kind"] = _kind_name
    environment.filters["metric"] = lambda name: METRIC_NAMES.get(name, name)
    environment.filters["data_uri"] = _data_uri
    environment.globals["style_of"] = _style
    results = sorted(evaluation["results"], key=lambda result: (_style(result["pair_kind"]), result["dim"]))
    page = environment.get_template(TEMPLATE).render(
        evaluation=evaluation,
        results=results,
        kinds=list(dict.fromkeys(result["pair_kind"] for result in results)),
        metrics=_metrics(results),
        storages=sorted({result["storage"] for result in results}),
        charts=_charts(results),
        negatives_chart=_negatives_chart(evaluation["negatives_outranked"]),
        confidence=_percent(evaluation.get("confidence")),
        headline=_headline(results, evaluation["negatives_outranked"]),
        choice=evaluation["choice"],
        gallery=gallery,
    )
    write_lines(path, [page])


def _charts(results: Sequence[Mapping[str, Any]]) -> list[LineChart]:
    """A chart for each metric that was measured. Where one storage type is not enough, the first stands for all."""
    storage = results[0]["storage"] if results else None
    charts = []
    for metric, title in CHARTS.items():
        values: dict[str, dict[int, float]] = {}
        intervals: dict[str, dict[int, tuple[float, float]]] = {}
        for result in results:
            if metric in result["metrics"] and result["storage"] == storage and result["pair_kind"] != ALL:
                values.setdefault(result["pair_kind"], {})[result["dim"]] = result["metrics"][metric]
                if metric in result.get("intervals", {}):
                    low, high = result["intervals"][metric]
                    intervals.setdefault(result["pair_kind"], {})[result["dim"]] = (low, high)
        if values:
            charts.append(line_chart(title, values, intervals=intervals))
    return charts


def _negatives_chart(outranked: Sequence[Mapping[str, Any]]) -> LineChart | None:
    values: dict[str, dict[int, float]] = {}
    for entry in sorted(outranked, key=lambda entry: _style(entry["pair_kind"])):
        values.setdefault(entry["pair_kind"], {})[entry["dim"]] = entry["value"]
    return line_chart("Named wrong answers outranked", values, reference=(0.5, "coin toss")) if values else None


def _headline(results: Sequence[Mapping[str, Any]], outranked: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The few figures to read first, of the first kind of pairs on the page."""
    if not results:
        return []
    kind = results[0]["pair_kind"]
    of_kind = [result for result in results if result["pair_kind"] == kind]
    smallest, full = of_kind[0], of_kind[-1]
    name = _kind_name(kind)
    tiles = [
        {"name": "Recall@10", "value": _figure(full["metrics"]["recall@10"]), "note": _note(name, full, "recall@10")},
        {"name": "Recall@1", "value": _figure(full["metrics"]["recall@1"]), "note": _note(name, full, "recall@1")},
    ]
    if smallest["dim"] < full["dim"]:
        kept = smallest["metrics"]["recall@10"]
        share = full["dim"] / smallest["dim"]
        tiles.insert(
            1, {"name": "Recall@10", "value": _figure(kept), "note": f"{name}, {smallest['dim']} dims: {share:g} times smaller vectors"}
        )
    for entry in outranked:
        if entry["pair_kind"] == kind and entry["dim"] == full["dim"]:
            note = f"of {entry['queries']} searches put the right answer above the wrong ones that the data names"
            tiles.append({"name": "Wrong answers outranked", "value": _figure(entry["value"]), "note": note})
    return tiles


def _note(name: str, result: Mapping[str, Any], metric: str) -> str:
    interval = result.get("intervals", {}).get(metric)
    return f"{name}, {result['dim']} dims" + (f": {_figure(interval[0])} to {_figure(interval[1])}" if interval else "")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:g} %"


def _metrics(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that were measured, known ones first, in the usual order."""
    found = {name for result in results for name in result["metrics"]}
    return [*(name for name in METRIC_ORDER if name in found), *sorted(found.difference(METRIC_ORDER))]


def _style(kind: str) -> int:
    """Number of a pair kind's colour and mark, from 0."""
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def _kind_name(kind: str) -> str:
    return "all" if kind == ALL else kind.replace("_to_", "→")


def _figure(value: float | None, metric: str = "") -> str:
    if value is None:
        return "–"
    return f"{value:g}" if metric == "median_rank" else f"{value:.3f}"


def _data_uri(frame: NDArray[np.uint8]) -> Markup:
    """A frame, uint8 (height, width, 3), as a JPEG that stands in the page itself."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    # Safe as it is: base64 has no character that HTML reads.
    return Markup("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii"))  # noqa: S704
