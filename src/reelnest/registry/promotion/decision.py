"""Whether a version becomes champion: the conditions in their order, and what is written down of them.

A champion that was measured on other data, or by other code, is measured again before anything is compared. That takes longer than other
processes should wait, so `decide` gives it back to its caller, who does so and asks again.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from reelnest.registry.promotion.aliases import CHALLENGER, DECISION_TAG, REASON_TAG, champion_of, set_champion
from reelnest.registry.promotion.deciding import deciding
from reelnest.registry.promotion.evaluation_log import CODE, DATA_HASH_TAG, gate_folder, stored_query_metrics
from reelnest.registry.promotion.gate import (
    NOWHERE_WORSE,
    SOMEWHERE_BETTER,
    Comparison,
    Condition,
    Difference,
    behaviour_condition,
    compare_models,
    validation_condition,
)
from reelnest.settings import Register

PROMOTED, NOT_PROMOTED, WAITS = "promoted", "not promoted", "waits for approval"
CONDITIONS_TAG = "reelnest.conditions"
DIFFERENCES_TAG = "reelnest.differences"
CODE_TAG = "reelnest.evaluation_code"
SAME_DATA, SAME_CODE, APPROVAL = "same data", "same code", "approval"


@dataclass(frozen=True)
class Evidence:
    """What the candidate's own run says of it."""

    queries: Path
    """`reports/queries.parquet`."""
    data_hash: str
    code_hash: str
    validation_passed: bool | None
    """None where there is no report."""
    behaviour: Mapping[str, Any] | None
    """Of `reports/evaluation.json`."""


@dataclass(frozen=True)
class Answer:
    """What a person said to a challenger that fulfils all else; a refusal also where nobody said anything in time."""

    granted: bool
    words: str


@dataclass(frozen=True)
class Verdict:
    """What is decided, and why."""

    decision: str
    conditions: tuple[Condition, ...]
    reason: str
    differences: tuple[Difference, ...] = ()


def decide(
    version: ModelVersion, evidence: Evidence, settings: Register, answer: Answer | None, unmeasured: Mapping[str, str]
) -> ModelVersion | None:
    """Sets the aliases, then the tags that say why. Repeating it changes nothing.

    Gives the champion, and decides nothing, where its figures on this data by this code are not known. `unmeasured` has the reasons why
    they cannot be, by version: then it is decided without them.
    """
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(version.name, CHALLENGER, version.version)
    # Of two that are decided at the same moment, the second one is compared with the first.
    with deciding(version.name):
        champion = champion_of(version.name)
        if champion is not None and champion.version == version.version:
            # Of one that was cut off here everything else is written; one that is measured again stays what it is.
            client.set_model_version_tag(version.name, version.version, DECISION_TAG, PROMOTED)
            return None
        theirs = None
        if champion is not None:
            theirs = stored_query_metrics(champion.run_id, f"{gate_folder(evidence.data_hash)}/{evidence.queries.name}")
            if theirs is not None and theirs.attrs.get(CODE) != evidence.code_hash:
                theirs = None
            if theirs is None and champion.version not in unmeasured:
                return champion
        ours = pd.read_parquet(evidence.queries)
        verdict = judge(evidence, ours, settings, champion, theirs, answer, unmeasured)
        _write(version, verdict)
        if verdict.decision == PROMOTED:
            set_champion(version, champion, verdict.reason)
            return None
    client.set_model_version_tag(version.name, version.version, REASON_TAG, verdict.reason)
    client.set_model_version_tag(version.name, version.version, DECISION_TAG, verdict.decision)
    return None


def judge(
    evidence: Evidence,
    ours: pd.DataFrame,
    settings: Register,
    champion: ModelVersion | None,
    theirs: pd.DataFrame | None,
    answer: Answer | None,
    unmeasured: Mapping[str, str],
) -> Verdict:
    """Whether every condition holds; the first that does not is the reason.

    `ours` and `theirs` are the figures by query of the challenger and, where they are known, of the champion.
    """
    own = (
        validation_condition(evidence.validation_passed),
        behaviour_condition(evidence.behaviour, settings.behaviour_passed.model_dump()),
    )
    if champion is None:
        against, compared = "there was no champion", Comparison(())
        conditions: tuple[Condition, ...] = own
    else:
        against = f"against the champion (version {champion.version})"
        if theirs is None:
            compared = Comparison(())
            conditions = (Condition(SAME_DATA, False, f"not comparable: {unmeasured[champion.version]}"), *own)
        else:
            compared = compare_models(ours, theirs, settings.metric, settings.margin, settings.confidence)
            conditions = (*_comparable(champion, evidence), *own, *compared.conditions)
    failed = next((condition for condition in conditions if not condition.passed), None)
    if failed is None and (answer is not None or settings.approval != "none"):
        conditions = (*conditions, _approval(answer))
        failed = None if conditions[-1].passed else conditions[-1]
    decision = PROMOTED if failed is None else WAITS if failed.passed is None else NOT_PROMOTED
    if failed is not None:
        why = failed.why
    else:
        told = (NOWHERE_WORSE, SOMEWHERE_BETTER, APPROVAL)
        why = ", ".join(condition.why for condition in conditions if condition.name in told) or "the first one"
    reason = f"{against}: {why}" + (f". {compared.figures}" if compared.figures else "")
    return Verdict(decision, conditions, reason, compared.differences)


def _comparable(champion: ModelVersion, evidence: Evidence) -> tuple[Condition, Condition]:
    """Both hold, since the figures are known; they say whether the champion had to be measured again for it."""
    same_data = champion.tags.get(DATA_HASH_TAG) == evidence.data_hash
    same_code = champion.tags.get(CODE_TAG) == evidence.code_hash
    return (
        Condition(SAME_DATA, True, "measured on the same data" if same_data else "the champion was measured again on this data"),
        Condition(SAME_CODE, True, "by the same code" if same_code or not same_data else "the champion was measured again by this code"),
    )


def _approval(answer: Answer | None) -> Condition:
    if answer is None:
        return Condition(APPROVAL, None, "a person has to approve it")
    return Condition(APPROVAL, answer.granted, f"{'approved' if answer.granted else 'not approved'}: {answer.words}")


def _write(version: ModelVersion, verdict: Verdict) -> None:
    client = mlflow.MlflowClient()
    for tag, found in ((CONDITIONS_TAG, verdict.conditions), (DIFFERENCES_TAG, verdict.differences)):
        client.set_model_version_tag(version.name, version.version, tag, json.dumps([asdict(one) for one in found]))
    marks = {True: "yes", False: "no", None: "open"}
    lines = [f"- {condition.name}: {marks[condition.passed]}; {condition.why}" for condition in verdict.conditions]
    client.update_model_version(version.name, version.version, "\n".join([f"**{verdict.decision}**: {verdict.reason}", "", *lines]))
