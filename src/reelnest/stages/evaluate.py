"""Evaluation: `models/candidate/` on the test split of `prepared/`, to `reports/`.

Usage, as `reelnest evaluate` does it: `accelerate launch --config_file configs/accelerate/cpu-2.yaml -m reelnest.stages.evaluate`
"""

import functools
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import PartialState

from reelnest.config import Evaluate, Params, launch_processes, launch_uses_cpu
from reelnest.data.behaviour import BEHAVIOUR_FILE, BehaviourTest, stored_behaviour
from reelnest.data.content_hash import value_hash
from reelnest.data.prepared import Prepared
from reelnest.data.whole_files import whole_file, write_json, write_lines
from reelnest.errors import DataError, TrainingError
from reelnest.model.saved import SETTINGS_FILE, load
from reelnest.registry.candidate import Candidate
from reelnest.registry.connection import connect
from reelnest.registry.evaluation_log import CODE, QUERY_METRICS_FILE, log_evaluation
from reelnest.report.evaluation_page import write_evaluation_page
from reelnest.report.gallery import choose_gallery
from reelnest.search.behaviour import EmbeddedTests, judge_behaviour
from reelnest.search.choice import smallest_dim
from reelnest.search.evaluation import ALL, Answers, Evaluation
from reelnest.search.retrieval_sets import RetrievalSet
from reelnest.stages.evaluation_code import evaluation_code_hash
from reelnest.stages.launch import stage_main
from reelnest.stages.workspace import Workspace
from reelnest.training.behaviour import embed_tests
from reelnest.training.retrieval import embed_split

SPLIT = "test"
STORAGE, NUMBER_BYTES = "float32", 4
HEADLINE_METRICS = ("recall@1", "recall@10", "ndcg@10")
LISTED_FAILURES = 200
"""Behaviour tests that did not pass; the report counts them all."""
CSV_COLUMNS = "pair_kind,dim,storage,metric,value,low,high"

log = logging.getLogger("reelnest.stages.evaluate")  # __name__ is __main__ under accelerate


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
    if not len(prepared.pairs(SPLIT)):
        raise DataError(
            f"{workspace.prepared / 'pairs.parquet'}: no pairs in the test split, so there is nothing to evaluate on."
            ' Raise data.test_fraction in params.yaml, or give pairs in data/pairs.jsonl "split": "test".'
        )
    model = load(workspace.candidate, device=state.device)
    split = embed_split(prepared, SPLIT, model.encoder, model.batcher, params.evaluate.batch_size)
    tests = stored_behaviour(workspace.reports / BEHAVIOUR_FILE)
    embedded = embed_tests(tests, prepared, split, model.encoder, model.batcher, params.evaluate.batch_size) if tests else None
    if state.is_main_process:
        evaluation = split.evaluate(model.dims, params.evaluate.depth, params.evaluate.confidence, timed=True)
        candidate = Candidate.of(workspace.candidate)
        report = evaluation_report(evaluation, candidate, model.width, prepared, params.evaluate)
        report["behaviour"] = behaviour_report(tests, embedded, model.dims)
        files = _write(workspace.reports, report, evaluation, prepared, params.evaluate.gallery_queries)
        if tracked:
            log_evaluation(params, candidate, report, files)
        _tell(evaluation, report["choice"], workspace.reports)
        _tell_behaviour(report["behaviour"])
    state.destroy_process_group()


def join_processes(workspace: Workspace, params: Params) -> PartialState:
    """The processes that accelerate started. Raises TrainingError where they are not as many as `launch.config` says."""
    state = PartialState(cpu=launch_uses_cpu(params, workspace.params) or not torch.cuda.is_available())
    expected = launch_processes(params, workspace.params)
    if state.num_processes != expected:
        raise TrainingError(
            f"evaluation: {state.num_processes} processes work together here, but launch.config '{params.launch.config}' says {expected}."
            " Start it with `reelnest evaluate`, or set launch.config to a file whose num_processes is right."
        )
    return state


def main() -> int:
    """What `accelerate launch` starts on each process; returns the exit status."""
    return stage_main(run)


def evaluation_report(
    evaluation: Evaluation, candidate: Candidate, embedding_width: int, prepared: Prepared, settings: Evaluate
) -> dict[str, Any]:
    """What `reports/evaluation.json` holds."""
    dims, width = evaluation.dims, evaluation.dims[-1]
    sets = [answers.searched for answers in evaluation.answers]
    everything = next(result for result in evaluation.results if result.pair_kind == ALL)
    choice = smallest_dim(evaluation.by_query, settings.choice_metric, settings.choice_margin, settings.confidence)
    base = json.loads((candidate.folder / SETTINGS_FILE).read_text(encoding="utf-8"))["model"]["name_or_path"]
    return {
        "split": SPLIT,
        "dims": list(dims),
        "width": width,
        "queries": everything.queries,
        "corpus": everything.corpus,
        "confidence": settings.confidence,
        "choice": {**asdict(choice), "bytes_per_vector": NUMBER_BYTES * choice.dim},
        "results": [
            {
                "pair_kind": result.pair_kind,
                "dim": result.dim,
                "storage": STORAGE,
                "metrics": result.metrics,
                "intervals": result.intervals,
                "queries": result.queries,
                "corpus": result.corpus,
                "bytes_per_vector": NUMBER_BYTES * result.dim,
                "queries_per_second": round(result.queries_per_second or 0.0, 1),
            }
            for result in evaluation.results
        ],
        "negatives_outranked": [
            {"pair_kind": found.pair_kind, "dim": found.dim, "value": found.value, "queries": found.queries}
            for found in evaluation.outranked
        ],
        "code": {"hash": evaluation_code_hash(settings.depth)},
        "model": {"hash": candidate.hash, "base": base, "embedding_width": embedding_width},
        "data": {
            "hash": data_hash(sets, prepared),
            "pair_kinds": {searched.pair_kind: {"queries": len(searched.queries), "corpus": len(searched.corpus)} for searched in sets},
        },
    }


def behaviour_report(tests: Sequence[BehaviourTest], embedded: EmbeddedTests | None, dims: Sequence[int]) -> dict[str, Any]:
    """`behaviour` of `reports/evaluation.json`: by dim, the share of all tests that passed, and of each kind's."""
    suite = value_hash([asdict(test) for test in tests])
    if embedded is None:
        return {"tests": 0, "by_kind": {}, "passed": {}, "passed_by_kind": {}, "left_out": 0, "failed": 0, "failures": [], "hash": suite}
    found = judge_behaviour(embedded, dims)
    total = len(embedded.tests)
    return {
        "tests": total,
        "by_kind": found.tests,
        "passed": {
            str(dim): sum(share * found.tests[kind] for kind, share in shares.items()) / max(total, 1)
            for dim, shares in found.passed.items()
        },
        "passed_by_kind": {str(dim): shares for dim, shares in found.passed.items()},
        "left_out": len(tests) - total,
        "failed": len(found.failures),
        "failures": [asdict(one) for one in found.failures[:LISTED_FAILURES]],
        "hash": suite,
    }


def data_hash(sets: Sequence[RetrievalSet], prepared: Prepared) -> str:
    """A name for what was asked and what counted as right, by texts and by video ids with the bytes of the videos.

    How they were sampled, and text fields, are left out: how much of a video a model reads is the model's choice, and models that choose
    otherwise can be compared on the same questions.
    """

    @functools.cache
    def name(index: int) -> str | list[str]:
        item = prepared.item(index)
        return item.key if item.kind == "text" else [item.key, prepared.store.content(prepared.store.position(item.key))]

    return value_hash(
        [
            {
                "pair_kind": searched.pair_kind,
                "corpus": [name(int(item)) for item in searched.corpus],
                "queries": [
                    {
                        "query": name(int(query)),
                        "right": [[name(item), grade] for item, grade in sorted(searched.qrels[int(query)].items())],
                        "wrong": [name(int(item)) for item in searched.negatives.get(int(query), ())],
                        "ignored": [name(int(item)) for item in searched.ignored.get(int(query), ())],
                    }
                    for query in searched.queries
                ],
            }
            for searched in sets
        ]
    )


def _write(reports: Path, report: dict[str, Any], evaluation: Evaluation, prepared: Prepared, gallery_queries: int) -> list[Path]:
    """Writes all files, the JSON last, and returns them."""
    names = ("metrics_by_dim.csv", "metrics.json", "run.trec", "qrels.trec", QUERY_METRICS_FILE, "evaluation.html", "evaluation.json")
    csv, metrics, run_file, qrels, queries, page, summary = files = [reports / name for name in names]
    write_lines(csv, _csv_lines(evaluation))
    write_json(metrics, headline(evaluation))
    write_lines(run_file, _run_lines(evaluation.answers))
    write_lines(qrels, _qrels_lines(evaluation.answers))
    with whole_file(queries) as aside:
        query_metrics(evaluation, prepared, report["code"]["hash"]).to_parquet(aside, index=False)
    write_evaluation_page(page, report, choose_gallery(prepared, evaluation, gallery_queries))
    write_json(summary, report)
    return files


def query_metrics(evaluation: Evaluation, prepared: Prepared, code_hash: str) -> pd.DataFrame:
    """A row for each pair kind, query and dim: what the gate compares, and whoever asks which queries are hard.

    The table's attributes name the code that made it.
    """
    tables = [
        pd.DataFrame(
            {
                "pair_kind": found.searched.pair_kind,
                "query": [prepared.item(int(query)).key for query in found.searched.queries],
                "dim": found.dim,
                **found.values,
            }
        )
        for found in evaluation.by_query
    ]
    found = pd.concat(tables, ignore_index=True)
    found.attrs[CODE] = code_hash
    return found


def headline(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """The few figures over all queries that `dvc metrics show` and `dvc metrics diff` put into one line, by metric and dim."""
    return {
        metric: {str(result.dim): result.metrics[metric] for result in evaluation.results if result.pair_kind == ALL}
        for metric in HEADLINE_METRICS
    }


def _csv_lines(evaluation: Evaluation) -> Iterator[str]:
    yield CSV_COLUMNS
    for result in evaluation.results:
        for metric, value in result.metrics.items():
            low, high = result.intervals[metric]
            yield f"{result.pair_kind},{result.dim},{STORAGE},{metric},{value!r},{low!r},{high!r}"


def _run_lines(answers: Sequence[Answers]) -> Iterator[str]:
    """A TREC run. Ids are the items' row numbers in `prepared/items.parquet`, since TREC's ids hold no spaces.

    trec_eval sorts by the score alone and breaks ties by its own rule, so the score is the rank's negative and not the cosine.
    """
    for found in answers:
        kind = found.searched.pair_kind
        for query, items in zip(found.searched.queries.tolist(), found.items, strict=True):
            for rank, item in enumerate(items.tolist(), start=1):
                yield f"{kind}:{query} Q0 {item} {rank} {-rank} reelnest"


def _qrels_lines(answers: Sequence[Answers]) -> Iterator[str]:
    for found in answers:
        for query, grades in found.searched.qrels.items():
            for item, grade in sorted(grades.items()):
                yield f"{found.searched.pair_kind}:{query} 0 {item} {grade:g}"


def _tell(evaluation: Evaluation, choice: Mapping[str, Any], reports: Path) -> None:
    for dim in evaluation.dims:
        found = {metric: evaluation.value(metric, dim=dim) for metric in ("recall@1", "recall@10", "ndcg@10")}
        figures = ", ".join(f"{metric} {value:.3f}" for metric, value in found.items() if value is not None)
        log.info("evaluation at dim %d, all queries: %s", dim, figures)
    for outranked in evaluation.outranked:
        log.info(
            "negatives outranked at dim %d, %s: %.3f of %d queries", outranked.dim, outranked.pair_kind, outranked.value, outranked.queries
        )
    log.info(
        "smallest dim that is as good: %d (%s %.3f; less than %g below dim %d, %.3f)",
        *(choice["dim"], choice["metric"], choice["value"], choice["margin"], choice["best_dim"], choice["best_value"]),
    )
    log.info("evaluation: %s", reports / "evaluation.html")


def _tell_behaviour(found: Mapping[str, Any]) -> None:
    if not found["tests"]:
        log.info("behaviour tests: there are none (data/behaviour.jsonl)")
    for dim, shares in found["passed_by_kind"].items():
        log.info("behaviour tests passed at dim %s: %s", dim, ", ".join(f"{kind} {share:.3f}" for kind, share in shares.items()))
    if found["left_out"]:
        log.warning("%d behaviour tests name videos that could not be prepared, and were left out", found["left_out"])


if __name__ == "__main__":
    sys.exit(main())
