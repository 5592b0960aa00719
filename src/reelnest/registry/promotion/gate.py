"""The conditions that a challenger must meet to become champion. To add one, write a function here and decorate it with `@condition`.

This module does not use MLflow: `decision.py` reads the input of the conditions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from reelnest.artifacts.evaluation_report import BehaviourResults
from reelnest.artifacts.registration_report import ConditionResult
from reelnest.registry.promotion.model_comparison import ModelComparison
from reelnest.settings import Register

NOT_WORSE, BETTER = "not worse", "better"
"""The names of the conditions that compare the challenger with the champion."""


@dataclass(frozen=True)
class Champion:
    """The version that the challenger would replace."""

    version: str
    same_data: bool
    """Whether it was registered with metrics on this data. If False, it was measured again if possible."""
    same_code: bool
    """Whether it was registered with metrics by this code. If False, it was measured again if possible."""
    unmeasured: str = ""
    """The reason why its metrics on this data by this code are unknown; empty if they are known."""


@dataclass(frozen=True)
class Challenge:
    """The input of the conditions."""

    settings: Register
    validation_passed: bool | None
    """None if there is no report."""
    behaviour: BehaviourResults | None
    champion: Champion | None
    comparison: ModelComparison | None
    """None if there is no champion, or if its metrics are unknown."""
    no_test: str = ""
    """Why models cannot differ in the metric on this data; empty if they can."""


Condition: TypeAlias = Callable[[Challenge], ConditionResult | None]
"""Returns whether a challenger meets the condition, and why; None if it does not apply."""

CONDITIONS: list[Condition] = []
"""The conditions, in the order in which reports show them. The first that fails is the reason for the decision."""


def condition(function: Condition) -> Condition:
    """Adds a condition to the gate."""
    CONDITIONS.append(function)
    return function


def check(challenge: Challenge) -> list[ConditionResult]:
    """Returns the results of the conditions that apply, in order."""
    results = (function(challenge) for function in CONDITIONS)
    return [result for result in results if result is not None]


@condition
def same_data(challenge: Challenge) -> ConditionResult | None:
    """The champion's metrics on the challenger's data must be known. If they are not, a person decides."""
    champion = challenge.champion
    if champion is None:
        return None
    if champion.unmeasured:
        return ConditionResult(name="same data", passed=False, why=f"not comparable: {champion.unmeasured}")
    why = "measured on the same data" if champion.same_data else "the champion was measured again on this data"
    return ConditionResult(name="same data", passed=True, why=why)


@condition
def same_code(challenge: Challenge) -> ConditionResult | None:
    """Records whether the champion was measured again by this code. It never fails, because known metrics are always by this code."""
    champion = challenge.champion
    if champion is None or champion.unmeasured:
        return None
    same = champion.same_code or not champion.same_data
    return ConditionResult(
        name="same code", passed=True, why="by the same code" if same else "the champion was measured again by this code"
    )


@condition
def validation(challenge: Challenge) -> ConditionResult:
    """The data passed validation."""
    passed = challenge.validation_passed
    if passed is None:
        why = "there is no reports/validation.json: run `reelnest validate`"
    else:
        why = "the data passed validation" if passed else "the data did not pass validation (reports/validation.json)"
    return ConditionResult(name="validation", passed=bool(passed), why=why)


@condition
def behaviour(challenge: Challenge) -> ConditionResult:
    """At each dim, the required share of the behaviour tests of each kind passes (`register.behaviour_passed`)."""
    results, required = challenge.behaviour, challenge.settings.behaviour_passed.model_dump()
    if results is None or not results.tests:
        return ConditionResult(name="behaviour", passed=True, why="there are no behaviour tests (data/behaviour.jsonl)")
    short = [
        f"{kind} {share:.2f} at dim {dim} ({required[kind]:g} is required)"
        for dim in results.dims
        for kind, share in results.passed_by_kind[str(dim)].items()
        if share < required[kind]
    ]
    if short:
        return ConditionResult(name="behaviour", passed=False, why=f"too few behaviour tests pass: {', '.join(short)}")
    return ConditionResult(
        name="behaviour", passed=True, why=f"enough of the {results.tests} behaviour tests pass, of each kind at each dim"
    )


@condition
def is_a_test(challenge: Challenge) -> ConditionResult | None:
    """Models can differ in the metric on the test data. If they cannot, a person decides."""
    if challenge.champion is None or not challenge.no_test:
        return None
    metric, reason = challenge.settings.metric, challenge.no_test
    why = f"{metric} is no test on this data, because {reason}: add test data, choose another register.metric, or promote it by hand"
    return ConditionResult(name="test", passed=False, why=why)


@condition
def not_worse(challenge: Challenge) -> ConditionResult | None:
    """The challenger is not worse than the champion by more than the margin, at any dim that the champion serves."""
    comparison, margin = challenge.comparison, challenge.settings.margin
    if comparison is None or challenge.no_test:
        return None
    if comparison.problem:
        return ConditionResult(name=NOT_WORSE, passed=False, why=comparison.problem)
    if comparison.worse:
        why = f"may be worse than the champion by more than {margin:g} at dim {_listed(comparison.worse)}"
        return ConditionResult(name=NOT_WORSE, passed=False, why=why)
    return ConditionResult(name=NOT_WORSE, passed=True, why=f"not worse than the champion by more than {margin:g} at any dim")


@condition
def better(challenge: Challenge) -> ConditionResult | None:
    """The challenger is significantly better than the champion at one dim or more."""
    comparison = challenge.comparison
    if comparison is None or comparison.problem or challenge.no_test:
        return None
    why = f"better at dim {_listed(comparison.better)}" if comparison.better else "not significantly better at any dim"
    return ConditionResult(name=BETTER, passed=bool(comparison.better), why=why)


def _listed(dims: tuple[int, ...]) -> str:
    return ", ".join(map(str, dims))
