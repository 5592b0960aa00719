"""`reports/evaluation.html`: retrieval quality, size and speed, for people to look at.

The page shows everything even without its script.
"""

from collections.abc import Sequence
from pathlib import Path

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.evaluation.metrics import headline_names
from reelnest.report import evaluation_tables as tables
from reelnest.report import wording
from reelnest.report.evaluation_charts import negatives_chart, quality_charts, scatter_charts
from reelnest.report.gallery import ConfusedVideo, GalleryQuery
from reelnest.report.headline import headline
from reelnest.report.pictures import strip
from reelnest.report.template import STYLE, source, write_page

TEMPLATE, SCRIPT = (Path(__file__).with_name(f"evaluation_page.{kind}") for kind in ("html.j2", "js"))
FILTERS = {
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
SECTIONS = (
    ("dims", "Quality by dimensions", "line_charts"),
    ("size", "Size and speed", "configurations"),
    ("engines", "Search engines", "engines"),
    ("before", "Champion and previous run", "compared"),
    ("slices", "Query segments", "slices"),
    ("behaviour", "Behaviour tests", "behaviour"),
    ("negatives", "Listed negatives", "negatives_chart"),
    ("all", "All metrics", "results"),
    ("queries", "Examples", "gallery"),
    ("confused", "Confused videos", "confused"),
)
"""Anchor, name and content of each section, in the page's order. An empty section is left out."""


def write_evaluation_page(
    path: Path, evaluation: EvaluationReport, gallery: Sequence[GalleryQuery] = (), confused: Sequence[ConfusedVideo] = ()
) -> None:
    """Writes the page in one step.

    Args:
        path: Where the page goes.
        evaluation: The report of the evaluation.
        gallery: Example queries with their best results.
        confused: Videos that rank first for queries to which they are not relevant.
    """
    results = sorted(evaluation.results, key=lambda result: (wording.kind_style(result.pair_kind), result.dim))
    configurations = sorted(
        evaluation.configurations,
        key=lambda configuration: (configuration.bytes_per_vector, bool(configuration.funnel), configuration.name),
    )
    series = sorted({wording.series_of(configuration) for configuration in configurations}, key=wording.series_style)
    comparisons = tables.comparisons(evaluation)
    slice_dims, slices = tables.slice_rows(evaluation)
    content = {
        "results": results,
        "kinds": list(dict.fromkeys(result.pair_kind for result in results)),
        "metrics": wording.metrics_of(results),
        "line_charts": quality_charts(evaluation, results),
        "negatives_chart": negatives_chart(evaluation.negatives_outranked),
        "configurations": configurations,
        "series": series,
        "storage_note": wording.storage_note(dict.fromkeys(name for name in series if name != wording.FUNNEL)),
        "configuration_metrics": wording.shown_metrics(headline_names(), evaluation),
        "scatter_charts": scatter_charts(configurations, series, evaluation.metric),
        "engines": evaluation.engines,
        "capped": tables.capped(evaluation),
        "untested": tables.untested(evaluation),
        "comparisons": comparisons,
        "compared": [*comparisons, *evaluation.not_compared],
        "slice_dims": slice_dims,
        "slices": slices,
        "behaviour": tables.behaviour_table(evaluation.behaviour),
        "gallery": gallery,
        "confused": confused,
    }
    write_page(
        path,
        TEMPLATE,
        FILTERS,
        evaluation=evaluation,
        headline=headline(evaluation),
        choice=evaluation.choice,
        confidence=wording.percent(evaluation.confidence),
        sections=[(anchor, name) for anchor, name, key in SECTIONS if content[key]],
        gallery_kinds=list(dict.fromkeys(query.pair_kind for query in gallery)),
        gallery_slices=list(dict.fromkeys(name for query in gallery for name in query.slices)),
        style=source(STYLE),
        script=source(SCRIPT),
        **content,
    )
