"""Builds the sections of `reports/evaluation.json` from the results of an evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from reelnest.artifacts.evaluation_report import (
    BehaviourFailure,
    BehaviourResults,
    ComparedWith,
    ConfigurationResult,
    EngineResult,
    NegativesOutranked,
    NotComparedWith,
    RecommendedConfiguration,
    Result,
    SliceResult,
)
from reelnest.engines.engine import check_engine
from reelnest.evaluation.behaviour import EmbeddedTests, score_behaviour
from reelnest.evaluation.choice import Choice
from reelnest.evaluation.configurations import Configuration, Measured
from reelnest.evaluation.evaluation import ALL, Evaluation
from reelnest.evaluation.metrics import ScoredQueries, query_metrics
from reelnest.evaluation.relevance import Qrels
from reelnest.evaluation.slices import Slice
from reelnest.evaluation.split_evaluation import EmbeddedSplit
from reelnest.profiling.engines import IndexForm, K, engine_location, measure_engines
from reelnest.progress import Activity
from reelnest.records.behaviour_tests import BehaviourTest
from reelnest.records.content_hash import value_hash
from reelnest.search.storage_types import bytes_per_vector
from reelnest.search.topk import Ranking
from reelnest.settings import Evaluate, Storage

FLOATS: Storage = "float32"
LISTED_FAILURES = 200
"""Failed behaviour tests that the report lists; it counts all of them."""


def result_entries(evaluation: Evaluation) -> tuple[Result, ...]:
    """Returns `results`: metrics of exact search, by pair kind and dim."""
    return tuple(
        Result(
            pair_kind=result.pair_kind,
            dim=result.dim,
            storage=FLOATS,
            metrics=result.metrics,
            intervals=result.intervals,
            queries=result.queries,
            corpus=result.corpus,
            bytes_per_vector=bytes_per_vector(result.dim, FLOATS),
        )
        for result in evaluation.results
    )


def outranked_entries(evaluation: Evaluation) -> tuple[NegativesOutranked, ...]:
    """Returns `negatives_outranked`: how often the relevant item ranks above the listed negatives."""
    return tuple(NegativesOutranked(**asdict(outranked)) for outranked in evaluation.outranked)


def behaviour_entry(tests: Sequence[BehaviourTest], embedded: EmbeddedTests | None, dims: Sequence[int]) -> BehaviourResults:
    """Returns `behaviour`: by dim, the share of tests that passed, over all tests and by kind."""
    suite = value_hash([asdict(test) for test in tests])
    if embedded is None:
        return BehaviourResults(
            tests=0, by_kind={}, passed={}, passed_by_kind={}, left_out=0, failed=0, failures=(), hash=suite,
        )  # fmt: skip
    scored = score_behaviour(embedded, dims)
    total = len(embedded.tests)
    return BehaviourResults(
        tests=total,
        by_kind=dict(scored.tests),
        passed={
            str(dim): sum(share * scored.tests[kind] for kind, share in shares.items()) / max(total, 1)
            for dim, shares in scored.passed.items()
        },
        passed_by_kind={str(dim): dict(shares) for dim, shares in scored.passed.items()},
        left_out=len(tests) - total,
        failed=len(scored.failures),
        failures=tuple(BehaviourFailure(**asdict(failure)) for failure in scored.failures[:LISTED_FAILURES]),
        hash=suite,
    )


def configuration_entries(measured: Sequence[Measured], videos: int) -> tuple[ConfigurationResult, ...]:
    """Returns `configurations`: the quality of each, and its size in an index of `videos` videos."""
    return tuple(
        ConfigurationResult(
            name=entry.configuration.name,
            dim=entry.configuration.dim,
            storage=entry.configuration.storage,
            funnel=entry.configuration.funnel or None,
            shortlists=entry.configuration.shortlists,
            metrics=entry.metrics[ALL],
            intervals=entry.intervals[ALL],
            bytes_per_vector=entry.configuration.bytes_per_vector,
            index_bytes=entry.configuration.index_bytes(videos),
            queries_per_second=round(entry.speed.median, 1),
            queries_per_second_range=(round(entry.speed.low, 1), round(entry.speed.high, 1)),
            above_negatives=entry.above_negatives,
        )
        for entry in measured
    )


def choice_entry(choice: Choice | None) -> RecommendedConfiguration | None:
    """Returns `choice`: the recommended configuration, and the evidence; None without one."""
    if choice is None:
        return None
    chosen, best = choice.chosen, choice.best
    return RecommendedConfiguration(
        name=chosen.name,
        dim=chosen.dim,
        storage=chosen.storage,
        funnel=chosen.funnel or None,
        metric=choice.metric,
        margin=choice.margin,
        value=choice.value,
        best_name=best.name,
        best_dim=best.dim,
        best_value=choice.best_value,
        low=choice.low,
        bytes_per_vector=chosen.bytes_per_vector,
    )


def slice_entries(slices: Sequence[Slice]) -> tuple[SliceResult, ...]:
    """Returns `slices`: the metrics of query segments."""
    return tuple(
        SliceResult(
            slice=entry.name,
            value=entry.value,
            dim=entry.dim,
            queries=entry.queries,
            small=entry.is_small,
            metrics=entry.metrics,
            intervals=entry.intervals,
        )
        for entry in slices
    )


def comparison_entries(
    compared: Sequence[ComparedWith | NotComparedWith],
) -> tuple[tuple[ComparedWith, ...], tuple[NotComparedWith, ...]]:
    """Returns `compared_with` and `not_compared`: the only sections that depend on more than the model and the data."""
    return (
        tuple(entry for entry in compared if isinstance(entry, ComparedWith)),
        tuple(entry for entry in compared if isinstance(entry, NotComparedWith)),
    )


def check_engines(settings: Evaluate, work: Path) -> None:
    """Raises ConfigError for an unknown engine or one whose package is not installed, DataError for a server that cannot be used."""
    for name in settings.engines:
        check_engine(engine_location(name, work))


def engine_entries(split: EmbeddedSplit, recommended: Configuration, settings: Evaluate, work: Path) -> tuple[EngineResult, ...]:
    """Returns `engines`: each engine by the share of rows that a filter selects, over the first pair kind that searches videos."""
    if not settings.engines:
        return ()
    searched = next((each for each in split.sets if each.target_kind == "video"), split.sets[0])
    shortlists = recommended.shortlists or (None,)
    form = IndexForm(recommended.dims, recommended.storage, shortlists[0])
    queries, corpus = split.queries.of(searched.queries), split.targets.of(searched.corpus)
    qrels = Qrels(searched)

    def label_recall(search: Callable[[int], Tensor]) -> float:
        rows = search(K + qrels.most_ignored)
        labelled = qrels.label(Ranking(rows, torch.zeros(rows.shape)), K)
        return float(query_metrics(ScoredQueries(labelled.hits, qrels.relevance))[f"recall@{K}"].mean())

    with Activity("measuring search engines"):
        measured = list(measure_engines(settings.engines, queries, corpus, form, work, label_recall))
    return tuple(
        EngineResult(
            engine=engine.engine,
            storage=engine.storage,
            disk_bytes=engine.disk_bytes,
            memory_bytes=engine.memory_bytes,
            **asdict(search),
        )
        for engine in measured
        for search in engine.searches
    )
