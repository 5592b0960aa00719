"""The files that an evaluation writes besides `evaluation.json`: tables, TREC files and the page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.atomic_files import atomic_write, write_json, write_lines
from reelnest.evaluation.by_query import QUERY_METRICS_FILE
from reelnest.evaluation.configurations import Measured
from reelnest.evaluation.evaluation import ALL, Evaluation, Retrieved
from reelnest.evaluation.metrics import headline_names
from reelnest.evaluation.slices import query_slices
from reelnest.report.evaluation_page import write_evaluation_page
from reelnest.report.gallery import choose_gallery, confused_videos
from reelnest.settings import Evaluate, Storage
from reelnest.stages.evaluation_entries import FLOATS
from reelnest.store.prepared import Prepared

CSV_COLUMNS = "pair_kind,dim,storage,metric,value,low,high"
CSV_FILE, HEADLINE_FILE, RUN_FILE, QRELS_FILE = "metrics_by_dim.csv", "metrics.json", "run.trec", "qrels.trec"
PAGE_FILE = "evaluation.html"


def write_tables(reports: Path, evaluation: Evaluation, measured: Sequence[Measured], by_query: pd.DataFrame) -> list[Path]:
    """Writes the metrics for plots, for `dvc metrics` and by query, and the results for trec_eval. Returns the paths."""
    names = (CSV_FILE, HEADLINE_FILE, RUN_FILE, QRELS_FILE, QUERY_METRICS_FILE)
    csv, headline, run, qrels, queries = paths = [reports / name for name in names]
    write_lines(csv, _csv_lines(evaluation, measured))
    write_json(headline, _headline(evaluation))
    write_lines(run, _run_lines(evaluation.retrieved))
    write_lines(qrels, _qrels_lines(evaluation.retrieved))
    with atomic_write(queries) as aside:
        by_query.to_parquet(aside, index=False)
    return paths


def write_page(reports: Path, report: EvaluationReport, evaluation: Evaluation, prepared: Prepared, settings: Evaluate) -> Path:
    """Writes the page with its images and returns its path."""
    page = reports / PAGE_FILE
    slices_of_queries = query_slices(evaluation, prepared, report.split, settings.slice_fields)
    gallery = choose_gallery(prepared, evaluation, settings.gallery_queries, slices_of_queries)
    write_evaluation_page(page, report, gallery, confused_videos(prepared, evaluation, settings.gallery_queries))
    return page


def _csv_lines(evaluation: Evaluation, measured: Sequence[Measured]) -> Iterator[str]:
    """Yields rows for each dim in float32, then in the other storage types; funnels are left out."""
    yield CSV_COLUMNS
    for result in evaluation.results:
        yield from _csv_rows(result.pair_kind, result.dim, FLOATS, result.metrics, result.intervals)
    for entry in measured:
        dim, storage = entry.configuration.dim, entry.configuration.storage
        if storage != FLOATS and not entry.configuration.funnel:
            for kind, metrics in entry.metrics.items():
                yield from _csv_rows(kind, dim, storage, metrics, entry.intervals[kind])


def _csv_rows(
    kind: str, dim: int, storage: Storage, metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]
) -> Iterator[str]:
    for metric, value in metrics.items():
        low, high = intervals[metric]
        yield f"{kind},{dim},{storage},{metric},{value!r},{low!r},{high!r}"


def _headline(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Returns the headline metrics over all queries, by metric and dim, for `dvc metrics show` and `dvc metrics diff`."""
    return {
        metric: {str(result.dim): result.metrics[metric] for result in evaluation.results if result.pair_kind == ALL}
        for metric in headline_names()
    }


def _run_lines(retrieved: Sequence[Retrieved]) -> Iterator[str]:
    """Yields a TREC run. Ids are the items' row numbers in `prepared/items.parquet`, since TREC ids must not contain spaces.

    trec_eval sorts by score and breaks ties by its own rule, so the score is the negative rank and not the cosine.
    """
    for of_set in retrieved:
        kind = of_set.searched.pair_kind
        for query, items in zip(of_set.searched.queries.tolist(), of_set.items, strict=True):
            for rank, item in enumerate(items.tolist(), start=1):
                yield f"{kind}:{query} Q0 {item} {rank} {-rank} reelnest"


def _qrels_lines(retrieved: Sequence[Retrieved]) -> Iterator[str]:
    for of_set in retrieved:
        for query, grades in of_set.searched.qrels.items():
            for item, grade in sorted(grades.items()):
                yield f"{of_set.searched.pair_kind}:{query} 0 {item} {grade:g}"
