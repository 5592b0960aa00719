"""The gate, tested with models whose difference is known."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reelnest.artifacts.evaluation_report import BehaviourResults
from reelnest.artifacts.registration_report import ConditionResult
from reelnest.evaluation import significance
from reelnest.registry.promotion import gate
from reelnest.registry.promotion.gate import Challenge, Champion
from reelnest.registry.promotion.model_comparison import compare_models
from reelnest.registry.promotion.verdict import Approval, Verdict, decide
from reelnest.settings import BehaviourPassed, Register
from tests.support import reports

QUERIES = 400
SHARES = {"128": {"direction": 0.75, "minimum": 1.0}, "16": {"direction": 0.7, "minimum": 1.0}}
BEHAVIOUR = BehaviourResults.model_validate(reports.behaviour(tests=60, passed_by_kind=SHARES))
CHAMPION = Champion("7", same_data=True, same_code=True)
OWN: Mapping[str, Any] = {"validation_passed": True, "behaviour": BEHAVIOUR}
BETTER = {16: 0.05, 64: 0.05, 128: 0.05}


def figures(by_dim: Mapping[int, np.ndarray]) -> pd.DataFrame:
    tables = [
        pd.DataFrame({"pair_kind": "text_to_video", "query": [f"q{number:03}" for number in range(len(values))], "dim": dim, "mrr": values})
        for dim, values in by_dim.items()
    ]
    return pd.concat(tables, ignore_index=True)


def drawn(seed: int, gains: Mapping[int, float], noise: float = 0.1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Challenger and champion: queries of different hardness, which is the same for both, and a gain at each dim."""
    random = np.random.default_rng(seed)
    hardness = random.random(QUERIES)
    # The metrics of a model at different dims are strongly correlated.
    models = [hardness + noise * random.standard_normal(QUERIES) for _ in range(2)]
    sides = [{dim: model + 0.3 * noise * random.standard_normal(QUERIES) for dim in gains} for model in models]
    return figures({dim: values + gains[dim] for dim, values in sides[0].items()}), figures(sides[1])


def decided(
    challenger: pd.DataFrame,
    theirs: pd.DataFrame | None,
    margin: float = 0.02,
    *,
    settings: Mapping[str, Any] | None = None,
    approval: Approval | None = None,
    champion: Champion = CHAMPION,
    **own: Any,
) -> Verdict:
    register = Register(**{"metric": "mrr", "margin": margin, "confidence": 0.95, **(settings or {})})
    compared = None if theirs is None else compare_models(challenger, theirs, register.metric, register.margin, register.confidence)
    return decide(Challenge(register, champion=champion, comparison=compared, **{**OWN, **own}), approval)


def verdict(seed: int, gains: Mapping[int, float], margin: float = 0.02, **rest: Any) -> Verdict:
    return decided(*drawn(seed, gains), margin, **rest)


@pytest.mark.parametrize(
    ("gains", "decision", "why"),
    [
        (BETTER, "promoted", "better at dim 16, 64, 128"),
        ({16: 0.0, 64: 0.05, 128: 0.0}, "promoted", "better at dim 64"),
        ({16: -0.06, 64: 0.05, 128: 0.05}, "not promoted", "may be worse than the champion by more than 0.02 at dim 16"),
        ({16: -0.06, 64: -0.06, 128: -0.06}, "not promoted", "may be worse than the champion by more than 0.02 at dim 16, 64, 128"),
    ],
)
def test_planted_models_are_compared_at_each_dim(gains: dict[int, float], decision: str, why: str) -> None:
    result = verdict(1, gains)
    assert result.decision == decision
    assert result.reason.startswith("against the champion (version 7): ")
    assert why in result.reason
    for difference in result.differences:
        assert difference.low < difference.value < difference.high
        assert difference.value == pytest.approx(gains[difference.dim], abs=0.03)


def test_the_same_model_again_is_not_better() -> None:
    theirs = drawn(0, {16: 0.0, 128: 0.0})[1]
    result = decided(theirs, theirs, margin=0.0)
    assert (result.decision, "not significantly better at any dim" in result.reason) == ("not promoted", True)


def test_few_of_many_equal_models_are_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = significance._draws
    # The draws depend only on the seed and the number of queries. Drawing takes most of the time, so they are cached.
    monkeypatch.setattr(significance, "_draws", functools.cache(lambda queries, seed: list(draws(queries, seed))))
    promoted = sum(verdict(seed, {16: 0.0, 32: 0.0, 64: 0.0, 128: 0.0}).decision == "promoted" for seed in range(200))
    assert promoted <= 10  # 5 % of 200


def test_a_model_may_be_worse_by_the_margin() -> None:
    gains = {16: -0.03, 128: 0.06}
    assert verdict(0, gains, margin=0.01).decision == "not promoted"
    assert verdict(0, gains, margin=0.06).decision == "promoted"


def test_other_queries_are_not_compared() -> None:
    challenger, theirs = drawn(0, {16: 0.5})
    result = decided(challenger[challenger["query"] != "q007"], theirs)
    assert (result.decision, "evaluated on other queries" in result.reason) == ("not promoted", True)


def test_a_dim_that_the_champion_serves_cannot_be_dropped_and_one_more_does_not_count() -> None:
    challenger, theirs = drawn(0, {16: 0.1, 128: 0.1})
    dropped = decided(challenger[challenger["dim"] == 16], theirs)
    assert dropped.decision == "not promoted"
    assert "the champion serves dim 128, which this model was not trained for" in dropped.reason
    more = decided(challenger, theirs[theirs["dim"] == 16])
    assert more.decision == "promoted"
    assert [difference.dim for difference in more.differences] == [16]


@pytest.mark.parametrize(
    ("changes", "settings", "why"),
    [
        ({"validation_passed": False}, {}, "the data did not pass validation"),
        ({"validation_passed": None}, {}, "run `reelnest validate`"),
        ({}, {"behaviour_passed": BehaviourPassed(direction=0.72)}, "direction 0.70 at dim 16 (0.72 is required)"),
        # The first condition that fails is the reason.
        ({"validation_passed": False}, {"behaviour_passed": BehaviourPassed(direction=0.9)}, "the data did not pass validation"),
    ],
)
def test_a_better_model_that_fails_its_own_conditions_is_not_promoted(changes: Any, settings: Any, why: str) -> None:
    result = verdict(1, BETTER, settings=settings, **changes)
    assert (result.decision, why in result.reason) == ("not promoted", True), result.reason
    first = decide(Challenge(Register(**settings), champion=None, comparison=None, **{**OWN, **changes}), None)
    assert (first.decision, why in first.reason) == ("not promoted", True), "also without a champion"


def test_without_behaviour_tests_there_is_nothing_to_pass() -> None:
    assert verdict(1, BETTER, behaviour=BehaviourResults.model_validate(reports.behaviour(tests=0))).decision == "promoted"


def test_all_conditions_are_reported_in_order() -> None:
    result = verdict(1, BETTER)
    names = ["same data", "same code", "validation", "behaviour", "not worse", "better"]
    assert [condition.name for condition in result.conditions] == names
    assert all(condition.passed for condition in result.conditions)
    again = verdict(1, BETTER, champion=Champion("7", same_data=False, same_code=False))
    assert (again.decision, again.conditions[0].why) == ("promoted", "the champion was measured again on this data")


def test_a_champion_that_cannot_be_measured_is_left_to_a_person() -> None:
    gone = Champion("7", same_data=True, same_code=True, unmeasured="its files are gone")
    result = decided(drawn(1, BETTER)[0], None, champion=gone)
    assert (result.decision, "not comparable: its files are gone" in result.reason) == ("not promoted", True)


def test_a_person_decides_last_if_the_settings_require_approval() -> None:
    with_approval = {"approval": "prefect"}
    assert verdict(1, BETTER, settings=with_approval).decision == "waits for approval"
    assert verdict(1, {16: -0.1, 64: 0.1, 128: 0.1}, settings=with_approval).decision == "not promoted", "without a request for approval"
    granted = verdict(1, BETTER, settings=with_approval, approval=Approval(True, "Anna: looks right"))
    assert (granted.decision, "approved: Anna: looks right" in granted.reason) == ("promoted", True)
    refused = verdict(1, BETTER, settings=with_approval, approval=Approval(False, "no response within 24 hours"))
    assert (refused.decision, "not approved: no response" in refused.reason) == ("not promoted", True)


def test_an_added_condition_is_checked_and_can_be_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "CONDITIONS", list(gate.CONDITIONS))

    @gate.condition
    def enough_tests(challenge: Challenge) -> ConditionResult:
        tests = challenge.behaviour.tests if challenge.behaviour else 0
        return ConditionResult(name="enough tests", passed=tests >= 100, why=f"{tests} behaviour tests, 100 are required")

    refused = verdict(1, BETTER)
    assert (refused.decision, refused.conditions[-1].name) == ("not promoted", "enough tests")
    assert refused.reason == "against the champion (version 7): 60 behaviour tests, 100 are required"
    assert verdict(1, BETTER, behaviour=BEHAVIOUR.model_copy(update={"tests": 100})).decision == "promoted"


def test_a_metric_that_is_no_test_on_the_data_decides_nothing() -> None:
    """However good the challenger looks: a person decides."""
    reason = "there are only 8 different candidates"
    result = verdict(1, BETTER, no_test=reason)
    assert result.decision == "not promoted"
    assert f"mrr is no test on this data, because {reason}: add test data, choose another register.metric" in result.reason
    assert not {"not worse", "better"} & {condition.name for condition in result.conditions}
    first = decide(Challenge(Register(metric="mrr"), champion=None, comparison=None, no_test=reason, **OWN), None)
    assert first.decision == "promoted"
