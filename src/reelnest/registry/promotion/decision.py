"""The decision on a version. It reads the input of the gate from MLflow, and writes the verdict there.

A champion that was measured on other data, or by other code, must be measured again before the comparison. Other processes should not wait
for that, so `decide_version` returns the champion to its caller, who measures it and calls again.
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
    """The results of the candidate's own run."""

    queries: Path
    """`reports/queries.parquet`."""
    data_hash: str
    code_hash: str
    validation_passed: bool | None
    """None if there is no report."""
    behaviour: BehaviourResults | None
    no_test: str = ""
    """Why models cannot differ in `register.metric` on this data; empty if they can."""


def decide_version(
    version: ModelVersion, evidence: Evidence, settings: Register, approval: Approval | None, unmeasured: Mapping[str, str]
) -> ModelVersion | None:
    """Sets the aliases, then the tags with the reasons. The call is idempotent.

    If the champion's metrics on this data by this code are unknown, it returns the champion without a decision. `unmeasured` has the reason
    for each version that cannot be measured; it decides without the metrics of these.
    """
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(version.name, CHALLENGER, version.version)
    # If two versions are decided concurrently, the second is compared with the first.
    with deciding(version.name):
        champion = champion_of(version.name)
        if champion is not None and champion.version == version.version:
            # An interrupted promotion is complete except for this tag. A champion that is evaluated again stays champion.
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
    """Returns the differences to the champion as lines of a Markdown table. Empty without differences."""
    if not differences:
        return []
    rows = [f"| {row.dim} | {row.value:+.4f} | {row.low:+.4f} to {row.high:+.4f} |" for row in differences]
    return [f"| dim | {metric} minus the champion's | interval |", "| ---: | ---: | --- |", *rows]


def _metrics_of(champion: ModelVersion, evidence: Evidence) -> pd.DataFrame | None:
    """Returns the champion's metrics by query on this data by this code; None if they are unknown."""
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
    return Challenge(settings, evidence.validation_passed, evidence.behaviour, before, comparison, evidence.no_test)


def _write(version: ModelVersion, verdict: Verdict, metric: str) -> None:
    client = mlflow.MlflowClient()
    for tag, entries in ((CONDITIONS_TAG, verdict.conditions), (DIFFERENCES_TAG, verdict.differences)):
        client.set_model_version_tag(version.name, version.version, tag, json.dumps([entry.model_dump() for entry in entries]))
    conditions = [f"- {condition.name}: {MARKS[condition.passed]}; {condition.why}" for condition in verdict.conditions]
    text = [f"**{verdict.decision}**: {verdict.reason}", "", *conditions, "", *differences_table(metric, verdict.differences)]
    client.update_model_version(version.name, version.version, "\n".join(text).rstrip())
