"""A version of the registry is decided: what the gate looks at is read from MLflow, and the verdict is written there.

A champion that was measured on other data, or by other code, is measured again before anything is compared. That takes longer than other
processes should wait, so `decide_version` returns it to its caller, who measures it and calls again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from reelnest.artifacts.evaluation_report import BehaviourResults, Difference
from reelnest.artifacts.registration_report import PROMOTED
from reelnest.evaluation.by_query import CODE
from reelnest.registry.promotion.aliases import CHALLENGER, DECISION_TAG, REASON_TAG, champion_of, set_champion
from reelnest.registry.promotion.deciding import deciding
from reelnest.registry.promotion.evaluation_log import DATA_HASH_TAG, gate_folder, stored_query_metrics
from reelnest.registry.promotion.gate import Challenge, Champion
from reelnest.registry.promotion.model_comparison import compare_models
from reelnest.registry.promotion.verdict import Approval, Verdict, decide
from reelnest.settings import Register

CONDITIONS_TAG = "reelnest.conditions"
DIFFERENCES_TAG = "reelnest.differences"
CODE_TAG = "reelnest.evaluation_code"
MARKS: Mapping[bool | None, str] = {True: "yes", False: "no", None: "open"}


@dataclass(frozen=True)
class Evidence:
    """What the candidate's own run says of it."""

    queries: Path
    """`reports/queries.parquet`."""
    data_hash: str
    code_hash: str
    validation_passed: bool | None
    """None where there is no report."""
    behaviour: BehaviourResults | None


def decide_version(
    version: ModelVersion, evidence: Evidence, settings: Register, approval: Approval | None, unmeasured: Mapping[str, str]
) -> ModelVersion | None:
    """Sets the aliases, then the tags that say why. Repeating it changes nothing.

    Returns the champion, and decides nothing, where its metrics on this data by this code are not known. `unmeasured` has the reasons why
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
        theirs = None if champion is None else _metrics_of(champion, evidence)
        if champion is not None and theirs is None and champion.version not in unmeasured:
            return champion
        verdict = decide(_challenge(evidence, settings, champion, theirs, unmeasured), approval)
        _write(version, verdict, settings.metric)
        if verdict.decision == PROMOTED:
            set_champion(version, champion, verdict.reason)
            return None
    client.set_model_version_tag(version.name, version.version, REASON_TAG, verdict.reason)
    client.set_model_version_tag(version.name, version.version, DECISION_TAG, verdict.decision)
    return None


def differences_table(metric: str, differences: Sequence[Difference]) -> list[str]:
    """The differences to the champion as lines of Markdown; none where there are none."""
    if not differences:
        return []
    rows = [f"| {one.dim} | {one.value:+.4f} | {one.low:+.4f} to {one.high:+.4f} |" for one in differences]
    return [f"| dim | {metric} minus the champion's | interval |", "| ---: | ---: | --- |", *rows]


def _metrics_of(champion: ModelVersion, evidence: Evidence) -> pd.DataFrame | None:
    """The champion's metrics by query on this data by this code; None where they are not known."""
    table = stored_query_metrics(champion.run_id, f"{gate_folder(evidence.data_hash)}/{evidence.queries.name}")
    return table if table is not None and table.attrs.get(CODE) == evidence.code_hash else None


def _challenge(
    evidence: Evidence, settings: Register, champion: ModelVersion | None, theirs: pd.DataFrame | None, unmeasured: Mapping[str, str]
) -> Challenge:
    comparison = None
    if theirs is not None:
        ours = pd.read_parquet(evidence.queries)
        comparison = compare_models(ours, theirs, settings.metric, settings.margin, settings.confidence)
    before = None
    if champion is not None:
        before = Champion(
            version=str(champion.version),
            same_data=champion.tags.get(DATA_HASH_TAG) == evidence.data_hash,
            same_code=champion.tags.get(CODE_TAG) == evidence.code_hash,
            unmeasured=unmeasured[champion.version] if theirs is None else "",
        )
    return Challenge(settings, evidence.validation_passed, evidence.behaviour, before, comparison)


def _write(version: ModelVersion, verdict: Verdict, metric: str) -> None:
    client = mlflow.MlflowClient()
    for tag, parts in ((CONDITIONS_TAG, verdict.conditions), (DIFFERENCES_TAG, verdict.differences)):
        client.set_model_version_tag(version.name, version.version, tag, json.dumps([part.model_dump() for part in parts]))
    conditions = [f"- {condition.name}: {MARKS[condition.passed]}; {condition.why}" for condition in verdict.conditions]
    text = [f"**{verdict.decision}**: {verdict.reason}", "", *conditions, "", *differences_table(metric, verdict.differences)]
    client.update_model_version(version.name, version.version, "\n".join(text).rstrip())
