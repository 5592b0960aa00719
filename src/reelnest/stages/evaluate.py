"""Evaluation: `models/candidate/` on the test split of `prepared/`, to `reports/`.

Usage, as `reelnest evaluate` does it: `accelerate launch --config_file configs/accelerate/cpu-2.yaml -m reelnest.launch.rank
reelnest.stages.evaluate`
"""

import json
import logging
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import PartialState

from reelnest.artifacts.evaluation_report import EvaluatedModel, EvaluationCode, EvaluationData, EvaluationReport, SetSize
from reelnest.encoder.saved import SavedModel, load
from reelnest.encoder.saved_settings import SETTINGS_FILE
from reelnest.evaluation.behaviour import EmbeddedTests
from reelnest.evaluation.behaviour_embedding import embed_tests
from reelnest.evaluation.by_query import data_hash, metrics_by_query
from reelnest.evaluation.choice import Choice, smallest
from reelnest.evaluation.configurations import Configuration, Measured, configurations, measure
from reelnest.evaluation.data_limits import best_possible, no_test
from reelnest.evaluation.evaluation import ALL, Evaluation
from reelnest.evaluation.metrics import headline_names
from reelnest.evaluation.slices import slices
from reelnest.evaluation.split_evaluation import EmbeddedSplit, embed_split
from reelnest.launch.process_count import check_process_count
from reelnest.progress import Activity
from reelnest.records.behaviour_tests import BEHAVIOUR_FILE, BehaviourTest, stored_behaviour
from reelnest.registry.candidate import Candidate
from reelnest.registry.connection import connect
from reelnest.registry.promotion.comparison import compare
from reelnest.registry.promotion.evaluation_log import log_evaluation
from reelnest.report.wording import configuration_name, kind_name, metric_name, size
from reelnest.settings import Evaluate, Params, launch_uses_cpu, load_params
from reelnest.stages import evaluation_entries as entries
from reelnest.stages.evaluation_code import evaluation_code_hash
from reelnest.stages.evaluation_files import PAGE_FILE, write_page, write_tables
from reelnest.stages.evaluation_inputs import SPLIT, check_extra_dims, check_test_pairs
from reelnest.stages.workspace import Workspace
from reelnest.store.prepared import Prepared

log = logging.getLogger(__name__)


def run(workspace: Workspace, params: Params) -> None:
    """Searches the test split at each of the model's dims and writes the reports.

    Every process that accelerate starts calls this; a single process may call it without a launcher. Raises DataError without test pairs,
    ModelError for a model that cannot be opened or returns NaN, RegistryError before the work if MLflow is configured and unreachable,
    ConfigError or DataError before the work for an engine of `evaluate.engines` that cannot be used.
    """
    state = join_processes(workspace, params)
    if state.is_main_process:
        if _is_tracked(params):
            connect(params)
        entries.check_engines(params.evaluate, workspace.work)
    prepared = Prepared.open(workspace.prepared)
    check_test_pairs(prepared, workspace)
    model = load(workspace.candidate, device=state.device, precision=params.evaluate.precision)
    prepared.store.require(model.encoder.vision)
    settings = params.evaluate
    dims = _dims(model.dims, settings.extra_dims)
    candidates = configurations(dims, settings)
    split = embed_split(prepared, SPLIT, model.encoder, model.batcher, settings.batch_size)
    tests = stored_behaviour(workspace.reports / BEHAVIOUR_FILE)
    embedded = embed_tests(tests, prepared, split, model.encoder, model.batcher, settings.batch_size) if tests else None
    # All processes share the search; the main process does the rest.
    confidence = settings.confidence if state.is_main_process else None
    with Activity("searching the test split", shown=state.is_main_process):
        evaluation = split.evaluate(dims, settings.depth, confidence)
    if state.is_main_process:
        with Activity("measuring storage types and funnels"):
            measured = measure(candidates, evaluation, split.queries, split.targets, settings.depth, settings.confidence)
        _write_reports(workspace, params, prepared, model, (split, evaluation, measured), (tests, embedded))
    state.destroy_process_group()


def _is_tracked(params: Params) -> bool:
    return "mlflow" in params.train.trackers


def _write_reports(
    workspace: Workspace,
    params: Params,
    prepared: Prepared,
    model: SavedModel,
    searched: tuple[EmbeddedSplit, Evaluation, Sequence[Measured]],
    behaviour: tuple[Sequence[BehaviourTest], EmbeddedTests | None],
) -> None:
    """Writes all files, `evaluation.json` last, and logs them to MLflow if it is configured."""
    split, evaluation, measured = searched
    settings, candidate = params.evaluate, Candidate.of(workspace.candidate)
    sets = [retrieved.searched for retrieved in evaluation.retrieved]
    no_tests = no_test(sets, prepared)
    why_not = no_tests.get(ALL, {}).get(settings.choice_metric)
    choice = _choose(measured, settings) if why_not is None else None
    recommended = choice.chosen if choice else Configuration(evaluation.dims[-1])
    slice_dims = {evaluation.dims[-1]} | ({choice.chosen.dim} if choice else set())
    slice_results = slices(evaluation, prepared, SPLIT, sorted(slice_dims), settings.slice_fields, settings.confidence)
    for unknown in sorted(set(settings.slice_fields) - {result.name for result in slice_results}):
        log.warning("evaluate.slice_fields: no video of the test split has the tag or field '%s'", unknown)
    untrained = sorted({dim for entry in measured for dim in entry.configuration.dims}.difference(model.dims))
    data, code = data_hash(sets, prepared), evaluation_code_hash(settings.depth)
    by_query = metrics_by_query(evaluation, prepared, code, untrained)
    compared_with, not_compared = entries.comparison_entries(compare(params, candidate, by_query, data, why_not))
    everything = next(result for result in evaluation.results if result.pair_kind == ALL)
    base = json.loads((candidate.folder / SETTINGS_FILE).read_text(encoding="utf-8"))["model"]["name_or_path"]
    report = EvaluationReport(
        split=SPLIT,
        dims=evaluation.dims,
        width=evaluation.dims[-1],
        untrained_dims=tuple(untrained),
        queries=everything.queries,
        corpus=everything.corpus,
        confidence=settings.confidence,
        best_possible=best_possible(sets),
        no_test=no_tests,
        results=entries.result_entries(evaluation),
        negatives_outranked=entries.outranked_entries(evaluation),
        index_videos=settings.index_videos,
        configurations=entries.configuration_entries(measured, settings.index_videos),
        choice_metric=settings.choice_metric,
        choice=entries.choice_entry(choice),
        slices=entries.slice_entries(slice_results),
        behaviour=entries.behaviour_entry(*behaviour, model.dims),
        engines=entries.engine_entries(split, recommended, settings, workspace.work),
        code=EvaluationCode(hash=code),
        model=EvaluatedModel(hash=candidate.hash, base=base, embedding_width=model.width),
        data=EvaluationData(
            hash=data,
            pair_kinds={each.pair_kind: SetSize(queries=len(each.queries), corpus=len(each.corpus)) for each in sets},
        ),
        compared_with=compared_with,
        not_compared=not_compared,
    )
    tables = write_tables(workspace.reports, evaluation, measured, by_query)
    page = write_page(workspace.reports, report, evaluation, prepared, settings)
    files = [*tables, page, report.write(workspace.reports)]
    if _is_tracked(params):
        log_evaluation(params, candidate, report, files)
    _log_metrics(report)
    _log_behaviour(report)
    log.info("evaluation: %s", workspace.reports / PAGE_FILE)


def join_processes(workspace: Workspace, params: Params) -> PartialState:
    """Joins the process group. Raises TrainingError if the number of processes differs from `launch.config`."""
    state = PartialState(cpu=launch_uses_cpu(params, workspace.params) or not torch.cuda.is_available())
    check_process_count(state.num_processes, "evaluate", params, workspace.params)
    return state


def main(_arguments: Sequence[str]) -> None:
    """Runs the stage on one rank. Raises as `run` does."""
    workspace = Workspace()
    run(workspace, load_params(workspace.params))


def _dims(trained: Sequence[int], extra: Sequence[int]) -> tuple[int, ...]:
    """Returns the dims to evaluate: those that the model was trained for, and `extra`."""
    check_extra_dims(trained, extra)
    if untrained := sorted(set(extra).difference(trained)):
        log.warning(
            "dim %s: the model was not trained for it; expect lower quality than with a model that was",
            ", ".join(map(str, untrained)),
        )
    return tuple(sorted({*trained, *extra}))


def _choose(measured: Sequence[Measured], settings: Evaluate) -> Choice:
    metric = settings.choice_metric
    values = {entry.configuration: np.concatenate([of_set.values[metric] for of_set in entry.by_query]) for entry in measured}
    return smallest(values, metric, settings.choice_margin, settings.confidence)


def _log_metrics(report: EvaluationReport) -> None:
    for dim, result in report.by_dim.items():
        metrics = ", ".join(f"{metric} {result.metrics[metric]:.3f}" for metric in headline_names())
        log.info("evaluation at dim %d, all queries: %s", dim, metrics)
    for outranked in report.negatives_outranked:
        log.info(
            "relevant item ranked above the listed negatives at dim %d, %s: %.0f %% of %d queries",
            *(outranked.dim, kind_name(outranked.pair_kind), 100 * outranked.value, outranked.queries),
        )
    choice = report.choice
    if choice is None:
        reason = report.no_test[ALL][report.choice_metric]
        log.warning("No recommendation: %s is no test on this data, because %s", metric_name(report.choice_metric), reason)
        return
    log.info(
        "Recommended: %s. %s %.3f (best: %.3f with %s). %d bytes a vector, %s for %s videos",
        *(configuration_name(choice.name), metric_name(choice.metric), choice.value),
        *(choice.best_value, configuration_name(choice.best_name)),
        *(choice.bytes_per_vector, size(report.featured.index_bytes), f"{report.index_videos:,}"),
    )


def _log_behaviour(report: EvaluationReport) -> None:
    behaviour = report.behaviour
    if not behaviour.tests:
        log.info("behaviour tests: none in data/behaviour.jsonl")
    for dim in behaviour.dims:
        shares = ", ".join(f"{kind} {share:.3f}" for kind, share in behaviour.passed_by_kind[str(dim)].items())
        log.info("behaviour tests passed at dim %d: %s", dim, shares)
    if behaviour.left_out:
        log.warning("%d behaviour tests were left out, because they name videos that could not be prepared", behaviour.left_out)
