"""The parts of `reports/evaluation.json`, made of what an evaluation measured."""

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
"""Behaviour tests that did not pass; the report counts them all."""


def result_entries(evaluation: Evaluation) -> tuple[Result, ...]:
    """`results`: exact search, by pair kind and dim."""
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
            queries_per_second=round(result.queries_per_second or 0.0, 1),
        )
        for result in evaluation.results
    )


def outranked_entries(evaluation: Evaluation) -> tuple[NegativesOutranked, ...]:
    """`negatives_outranked`: how often the relevant item ranks above the listed negatives."""
    return tuple(NegativesOutranked(**asdict(outranked)) for outranked in evaluation.outranked)


def behaviour_entry(tests: Sequence[BehaviourTest], embedded: EmbeddedTests | None, dims: Sequence[int]) -> BehaviourResults:
    """`behaviour`: by dim, the share of all tests that passed, and of each kind's."""
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
    """`configurations`: what each would cost in an index of so many videos, and how well it finds."""
    return tuple(
        ConfigurationResult(
            name=one.configuration.name,
            dim=one.configuration.dim,
            storage=one.configuration.storage,
            funnel=one.configuration.funnel or None,
            shortlists=one.configuration.shortlists,
            metrics=one.metrics[ALL],
            intervals=one.intervals[ALL],
            bytes_per_vector=one.configuration.bytes_per_vector,
            index_bytes=one.configuration.index_bytes(videos),
            queries_per_second=round(one.queries_per_second, 1),
        )
        for one in measured
    )


def choice_entry(choice: Choice) -> RecommendedConfiguration:
    """`choice`: the configuration that an index can be built with, and the evidence."""
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
    """`slices`: the metrics of parts of the queries."""
    return tuple(
        SliceResult(
            slice=part.name,
            value=part.value,
            dim=part.dim,
            queries=part.queries,
            small=part.is_small,
            metrics=part.metrics,
            intervals=part.intervals,
        )
        for part in slices
    )


def comparison_entries(
    compared: Sequence[ComparedWith | NotComparedWith],
) -> tuple[tuple[ComparedWith, ...], tuple[NotComparedWith, ...]]:
    """`compared_with` and `not_compared`: all in the report that is not of the model and the data alone."""
    return (
        tuple(one for one in compared if isinstance(one, ComparedWith)),
        tuple(one for one in compared if isinstance(one, NotComparedWith)),
    )
