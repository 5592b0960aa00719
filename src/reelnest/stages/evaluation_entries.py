"""Builds the sections of `reports/evaluation.json` from the results of an evaluation."""

from collections.abc import Sequence
from dataclasses import asdict

from reelnest.artifacts.evaluation_report import (
    BehaviourFailure,
    BehaviourResults,
    ComparedWith,
    ConfigurationResult,
    NegativesOutranked,
    NotComparedWith,
    RecommendedConfiguration,
    Result,
    SliceResult,
)
from reelnest.evaluation.behaviour import EmbeddedTests, score_behaviour
from reelnest.evaluation.choice import Choice
from reelnest.evaluation.configurations import Measured
from reelnest.evaluation.evaluation import ALL, Evaluation
from reelnest.evaluation.slices import Slice
from reelnest.records.behaviour_tests import BehaviourTest
from reelnest.records.content_hash import value_hash
from reelnest.search.storage_types import bytes_per_vector
from reelnest.settings import Storage

FLOATS: Storage = "float32"
LISTED_FAILURES = 200
"""Failed behaviour tests that the report lists; it counts all of them."""


def result_entries(evaluation: Evaluation) -> tuple[Result, ...]:
    """`results`: metrics of exact search, by pair kind and dim."""
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
    """`negatives_outranked`: how often the relevant item ranks above the listed negatives."""
    return tuple(NegativesOutranked(**asdict(outranked)) for outranked in evaluation.outranked)


def behaviour_entry(tests: Sequence[BehaviourTest], embedded: EmbeddedTests | None, dims: Sequence[int]) -> BehaviourResults:
    """`behaviour`: by dim, the share of tests that passed, over all tests and by kind."""
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
    """`configurations`: the quality of each, and its size in an index of `videos` videos."""
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
    """`choice`: the recommended configuration, and the evidence; None without one."""
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
    """`slices`: the metrics of query segments."""
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
    """`compared_with` and `not_compared`: the only sections that depend on more than the model and the data."""
    return (
        tuple(entry for entry in compared if isinstance(entry, ComparedWith)),
        tuple(entry for entry in compared if isinstance(entry, NotComparedWith)),
    )
