"""What an evaluation found, as `reports/evaluation.json`, `reports/metrics.json` and `reports/queries.parquet` hold it."""

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from reelnest.encoder.saved_settings import SETTINGS_FILE
from reelnest.evaluation.behaviour import EmbeddedTests, judge_behaviour
from reelnest.evaluation.choice import Choice
from reelnest.evaluation.configurations import Measured
from reelnest.evaluation.evaluation import ALL, Evaluation
from reelnest.evaluation.metrics import headline_names
from reelnest.evaluation.retrieval_sets import RetrievalSet
from reelnest.evaluation.slices import Slice
from reelnest.records.behaviour_tests import BehaviourTest
from reelnest.records.content_hash import value_hash
from reelnest.registry.candidate import Candidate
from reelnest.registry.promotion.comparison import Compared, NotCompared, compare
from reelnest.registry.promotion.evaluation_log import CODE
from reelnest.search.storage_types import bytes_per_vector
from reelnest.settings import Evaluate, Params, Storage
from reelnest.stages.evaluation_code import evaluation_code_hash
from reelnest.stages.evaluation_inputs import SPLIT
from reelnest.store.prepared import Prepared

FLOATS: Storage = "float32"
LISTED_FAILURES = 200
"""Behaviour tests that did not pass; the report counts them all."""


def evaluation_report(
    evaluation: Evaluation, candidate: Candidate, embedding_width: int, prepared: Prepared, settings: Evaluate
) -> dict[str, Any]:
    """What `reports/evaluation.json` holds of the exact search in floats; the rest of it is made of what is measured further."""
    dims, width = evaluation.dims, evaluation.dims[-1]
    sets = [retrieved.searched for retrieved in evaluation.retrieved]
    everything = next(result for result in evaluation.results if result.pair_kind == ALL)
    base = json.loads((candidate.folder / SETTINGS_FILE).read_text(encoding="utf-8"))["model"]["name_or_path"]
    return {
        "split": SPLIT,
        "dims": list(dims),
        "width": width,
        "queries": everything.queries,
        "corpus": everything.corpus,
        "confidence": settings.confidence,
        "results": [
            {
                "pair_kind": result.pair_kind,
                "dim": result.dim,
                "storage": FLOATS,
                "metrics": result.metrics,
                "intervals": result.intervals,
                "queries": result.queries,
                "corpus": result.corpus,
                "bytes_per_vector": bytes_per_vector(result.dim, FLOATS),
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


def configuration_entries(measured: Sequence[Measured], videos: int) -> list[dict[str, Any]]:
    """`configurations`: what each would cost in an index of so many videos, and how well it finds."""
    return [
        {
            "name": one.configuration.name,
            "dim": one.configuration.dim,
            "storage": one.configuration.storage,
            "funnel": list(one.configuration.funnel) or None,
            "shortlists": list(one.configuration.shortlists),
            "metrics": one.metrics[ALL],
            "intervals": one.intervals[ALL],
            "bytes_per_vector": one.configuration.bytes_per_vector,
            "index_bytes": one.configuration.index_bytes(videos),
            "queries_per_second": round(one.queries_per_second, 1),
        }
        for one in measured
    ]


def choice_entry(choice: Choice) -> dict[str, Any]:
    """`choice`: the configuration that an index can be built with, and the evidence."""
    chosen, best = choice.chosen, choice.best
    return {
        "name": chosen.name,
        "dim": chosen.dim,
        "storage": chosen.storage,
        "funnel": list(chosen.funnel) or None,
        "metric": choice.metric,
        "margin": choice.margin,
        "value": choice.value,
        "best_name": best.name,
        "best_dim": best.dim,
        "best_value": choice.best_value,
        "low": choice.low,
        "bytes_per_vector": chosen.bytes_per_vector,
    }


def slice_entries(parts: Sequence[Slice]) -> list[dict[str, Any]]:
    """`slices`: the figures of parts of the queries."""
    return [
        {
            "slice": one.name,
            "value": one.value,
            "dim": one.dim,
            "queries": one.queries,
            "small": one.is_small,
            "metrics": one.metrics,
            "intervals": one.intervals,
        }
        for one in parts
    ]


def comparisons(params: Params, candidate: Candidate, queries: pd.DataFrame, data_hash: str) -> dict[str, Any]:
    """`compared_with` and `not_compared`: all in the report that is not of the model and the data alone."""
    found = compare(params, candidate, queries, data_hash)
    return {
        "compared_with": [asdict(one) for one in found if isinstance(one, Compared)],
        "not_compared": [asdict(one) for one in found if isinstance(one, NotCompared)],
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


def query_metrics(evaluation: Evaluation, prepared: Prepared, code_hash: str, untrained: Sequence[int] = ()) -> pd.DataFrame:
    """A row for each pair kind, query and dim: what the gate compares, and whoever asks which queries are hard.

    The gate looks at what a model serves, so dims that it was not trained for are left out. The table's attributes name the code that
    made it.
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
        if found.dim not in untrained
    ]
    found = pd.concat(tables, ignore_index=True)
    found.attrs[CODE] = code_hash
    return found


def headline(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """The few figures over all queries that `dvc metrics show` and `dvc metrics diff` put into one line, by metric and dim."""
    return {
        metric: {str(result.dim): result.metrics[metric] for result in evaluation.results if result.pair_kind == ALL}
        for metric in headline_names()
    }
