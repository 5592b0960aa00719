"""Evaluation: `models/candidate/` on the test split of `prepared/`, to `reports/`.

Usage, as `reelnest evaluate` does it: `accelerate launch --config_file configs/accelerate/cpu-2.yaml -m reelnest.launch.rank
reelnest.stages.evaluate`
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState

from reelnest.atomic_files import whole_file, write_json, write_lines
from reelnest.encoder.saved import load
from reelnest.evaluation.behaviour_embedding import embed_tests
from reelnest.evaluation.choice import Choice, smallest
from reelnest.evaluation.configurations import Measured, configurations, measure
from reelnest.evaluation.evaluation import Evaluation, Retrieved
from reelnest.evaluation.metrics import headline_names
from reelnest.evaluation.slices import query_slices, slices
from reelnest.evaluation.split_evaluation import embed_split
from reelnest.launch.process_count import check_process_count
from reelnest.records.behaviour_tests import BEHAVIOUR_FILE, stored_behaviour
from reelnest.registry.candidate import Candidate
from reelnest.registry.connection import connect
from reelnest.registry.promotion.evaluation_log import QUERY_METRICS_FILE, log_evaluation
from reelnest.report.evaluation_page import write_evaluation_page
from reelnest.report.gallery import choose_gallery, confused_videos
from reelnest.settings import Evaluate, Params, Storage, launch_uses_cpu, load_params
from reelnest.stages.evaluation_inputs import SPLIT, check_extra_dims, check_test_pairs
from reelnest.stages.evaluation_report import (
    FLOATS,
    behaviour_report,
    choice_entry,
    comparisons,
    configuration_entries,
    evaluation_report,
    headline,
    query_metrics,
    slice_entries,
)
from reelnest.stages.workspace import Workspace
from reelnest.store.prepared import Prepared

CSV_COLUMNS = "pair_kind,dim,storage,metric,value,low,high"

log = logging.getLogger(__name__)


def run(workspace: Workspace, params: Params) -> None:
    """Searches the test split at each of the model's dims and writes what came of it.

    Every process that accelerate started calls this; one process may call it without a launcher. Raises DataError without test pairs,
    ModelError for a model that cannot be opened or gives NaN, RegistryError before the work if MLflow is wanted and cannot be reached.
    """
    state = join_processes(workspace, params)
    tracked = "mlflow" in params.train.trackers
    if state.is_main_process and tracked:
        connect(params)
    prepared = Prepared.open(workspace.prepared)
    check_test_pairs(prepared, workspace)
    model = load(workspace.candidate, device=state.device)
    prepared.store.require(model.encoder.vision)
    settings = params.evaluate
    dims = _dims(model.dims, settings.extra_dims)
    wanted = configurations(dims, settings)
    split = embed_split(prepared, SPLIT, model.encoder, model.batcher, settings.batch_size)
    tests = stored_behaviour(workspace.reports / BEHAVIOUR_FILE)
    embedded = embed_tests(tests, prepared, split, model.encoder, model.batcher, settings.batch_size) if tests else None
    # All share the search; one makes the rest of it.
    confidence = settings.confidence if state.is_main_process else None
    evaluation = split.evaluate(dims, settings.depth, confidence, timed=state.is_main_process)
    if state.is_main_process:
        measured = measure(wanted, evaluation, split.queries, split.targets, settings.depth, settings.confidence)
        choice = _choose(measured, settings)
        parts = slices(evaluation, prepared, SPLIT, sorted({choice.chosen.dim, dims[-1]}), settings.slice_fields, settings.confidence)
        for unknown in sorted(set(settings.slice_fields) - {one.name for one in parts}):
            log.warning("evaluate.slice_fields: no video of the test split has the tag or field '%s'", unknown)
        candidate = Candidate.of(workspace.candidate)
        report = evaluation_report(evaluation, candidate, model.width, prepared, settings) | {
            "untrained_dims": sorted({dim for one in wanted for dim in one.dims}.difference(model.dims)),
            "index_videos": settings.index_videos,
            "configurations": configuration_entries(measured, settings.index_videos),
            "choice": choice_entry(choice),
            "slices": slice_entries(parts),
            "behaviour": behaviour_report(tests, embedded, model.dims),
        }
        queries = query_metrics(evaluation, prepared, report["code"]["hash"], report["untrained_dims"])
        report |= comparisons(params, candidate, queries, report["data"]["hash"])
        files = _write(workspace.reports, report, evaluation, measured, queries, prepared, settings)
        if tracked:
            log_evaluation(params, candidate, report, files)
        _tell(evaluation, report, workspace.reports)
        _tell_behaviour(report["behaviour"])
    state.destroy_process_group()


def join_processes(workspace: Workspace, params: Params) -> PartialState:
    """The processes that accelerate started. Raises TrainingError where they are not as many as `launch.config` says."""
    state = PartialState(cpu=launch_uses_cpu(params, workspace.params) or not torch.cuda.is_available())
    check_process_count(state.num_processes, "evaluate", params, workspace.params)
    return state


def main(_arguments: Sequence[str]) -> None:
    """What each rank runs. Raises as `run` does."""
    workspace = Workspace()
    run(workspace, load_params(workspace.params))


def _dims(trained: Sequence[int], extra: Sequence[int]) -> tuple[int, ...]:
    """What is evaluated: the model's own dims, and those that it was not trained for."""
    check_extra_dims(trained, extra)
    if untrained := sorted(set(extra).difference(trained)):
        log.warning(
            "dim %s: the model was not trained for it; expect lower quality than at a trained dim of this size",
            ", ".join(map(str, untrained)),
        )
    return tuple(sorted({*trained, *extra}))


def _choose(measured: Sequence[Measured], settings: Evaluate) -> Choice:
    metric = settings.choice_metric
    values = {one.configuration: np.concatenate([found.values[metric] for found in one.by_query]) for one in measured}
    return smallest(values, metric, settings.choice_margin, settings.confidence)


def _write(
    reports: Path,
    report: dict[str, Any],
    evaluation: Evaluation,
    measured: Sequence[Measured],
    by_query: pd.DataFrame,
    prepared: Prepared,
    settings: Evaluate,
) -> list[Path]:
    """Writes all files, the JSON last, and returns them."""
    names = ("metrics_by_dim.csv", "metrics.json", "run.trec", "qrels.trec", QUERY_METRICS_FILE, "evaluation.html", "evaluation.json")
    csv, metrics, run_file, qrels, queries, page, summary = files = [reports / name for name in names]
    write_lines(csv, _csv_lines(evaluation, measured))
    write_json(metrics, headline(evaluation))
    write_lines(run_file, _run_lines(evaluation.retrieved))
    write_lines(qrels, _qrels_lines(evaluation.retrieved))
    with whole_file(queries) as aside:
        by_query.to_parquet(aside, index=False)
    slices_of_queries = query_slices(evaluation, prepared, SPLIT, settings.slice_fields)
    gallery = choose_gallery(prepared, evaluation, settings.gallery_queries, slices_of_queries)
    write_evaluation_page(page, report, gallery, confused_videos(prepared, evaluation, settings.gallery_queries))
    write_json(summary, report)
    return files


def _csv_lines(evaluation: Evaluation, measured: Sequence[Measured]) -> Iterator[str]:
    """Each dim in floats, then in the other storage types; funnels have no column here."""
    yield CSV_COLUMNS
    for result in evaluation.results:
        yield from _csv_rows(result.pair_kind, result.dim, FLOATS, result.metrics, result.intervals)
    for one in measured:
        dim, storage = one.configuration.dim, one.configuration.storage
        if storage != FLOATS and not one.configuration.funnel:
            for kind, metrics in one.metrics.items():
                yield from _csv_rows(kind, dim, storage, metrics, one.intervals[kind])


def _csv_rows(
    kind: str, dim: int, storage: Storage, metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]
) -> Iterator[str]:
    for metric, value in metrics.items():
        low, high = intervals[metric]
        yield f"{kind},{dim},{storage},{metric},{value!r},{low!r},{high!r}"


def _run_lines(retrieved: Sequence[Retrieved]) -> Iterator[str]:
    """A TREC run. Ids are the items' row numbers in `prepared/items.parquet`, since TREC's ids hold no spaces.

    trec_eval sorts by the score alone and breaks ties by its own rule, so the score is the rank's negative and not the cosine.
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


def _tell(evaluation: Evaluation, report: Mapping[str, Any], reports: Path) -> None:
    for dim in evaluation.dims:
        found = {metric: evaluation.value(metric, dim=dim) for metric in headline_names()}
        figures = ", ".join(f"{metric} {value:.3f}" for metric, value in found.items() if value is not None)
        log.info("evaluation at dim %d, all queries: %s", dim, figures)
    for outranked in evaluation.outranked:
        log.info(
            "negatives outranked at dim %d, %s: %.3f of %d queries", outranked.dim, outranked.pair_kind, outranked.value, outranked.queries
        )
    choice = report["choice"]
    index = next(one["index_bytes"] for one in report["configurations"] if one["name"] == choice["name"])
    log.info(
        "smallest that is as good: %s (%s %.3f; less than %g below %s, %.3f): %d bytes a vector, %.3g GB for %d videos",
        *(choice["name"], choice["metric"], choice["value"], choice["margin"], choice["best_name"], choice["best_value"]),
        *(choice["bytes_per_vector"], index / 1e9, report["index_videos"]),
    )
    log.info("evaluation: %s", reports / "evaluation.html")


def _tell_behaviour(found: Mapping[str, Any]) -> None:
    if not found["tests"]:
        log.info("behaviour tests: there are none (data/behaviour.jsonl)")
    for dim, shares in found["passed_by_kind"].items():
        log.info("behaviour tests passed at dim %s: %s", dim, ", ".join(f"{kind} {share:.3f}" for kind, share in shares.items()))
    if found["left_out"]:
        log.warning("%d behaviour tests name videos that could not be prepared, and were left out", found["left_out"])
