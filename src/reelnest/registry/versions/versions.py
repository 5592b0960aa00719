"""The registration of the candidate as a version of the registered model, and the decision on it.

Registration has three steps: the model is logged (MLflow marks it READY when all files are uploaded), the version is created with all its
tags at once, and it is decided (`promotion/decision.py`), which sets the tag `reelnest.decision` last. If a process is killed in between,
the next call does the remaining steps. No version ever has an incomplete model or incomplete tags.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion as ModelVersion
from mlflow.exceptions import MlflowException

from reelnest.artifacts.evaluation_report import Difference
from reelnest.artifacts.registration_report import WAITS, ConditionResult
from reelnest.errors import RegistryError
from reelnest.evaluation.metrics import logged_name
from reelnest.records.content_hash import value_hash
from reelnest.registry.candidate import Candidate, candidate_run
from reelnest.registry.connection import connect, error_type
from reelnest.registry.known_versions import MODEL_HASH_TAG
from reelnest.registry.promotion.aliases import DECISION_TAG, REASON_TAG, TAKEN_BACK
from reelnest.registry.promotion.decision import CODE_TAG, CONDITIONS_TAG, DIFFERENCES_TAG, Evidence, decide_version
from reelnest.registry.promotion.evaluation_log import DATA_HASH_TAG, gate_folder
from reelnest.registry.promotion.verdict import Approval
from reelnest.registry.versions.logged_model import Documents, log_model, logged_model
from reelnest.registry.versions.measuring import CannotMeasureError, measure_champion
from reelnest.settings import Params

DECIDED_ON_TAG = "reelnest.decided_on"
"""A hash of the evidence of the decision. A model with new evidence is decided again."""
MOST_MEASUREMENTS = 3
"""How often the champion may change while the previous one is measured."""


@dataclass(frozen=True)
class Submission:
    """A candidate and the data to register with it."""

    candidate: Candidate
    metrics: Mapping[str, float]
    """Metrics over all queries of the test split, at the full width."""
    evidence: Evidence
    tags: Mapping[str, str]
    documents: Documents | None = None
    """Documents for the version's files."""


@dataclass(frozen=True)
class Registration:
    """The result of a registration."""

    name: str
    version: int
    aliases: tuple[str, ...]
    decision: str
    """`promoted`, `not promoted`, or `waits for approval`."""
    reason: str
    conditions: tuple[ConditionResult, ...]
    """The conditions that were checked, in order. Empty for a manual promotion."""
    differences: tuple[Difference, ...]
    """Challenger minus champion by dim. Empty if they were not compared."""
    run_id: str | None
    is_new: bool
    """Whether this call created or finished the version. False if there was nothing to do."""


def register_candidate(
    params: Params, submission: Submission, measure: Callable[[ModelVersion, Path], None], approval: Approval | None = None
) -> Registration:
    """Registers the candidate as a version, `challenger`, and makes it `champion` if it meets all conditions of the gate.

    `measure` evaluates a version on the current test data and writes its metrics by query into a folder. It is called if the champion's
    metrics are unknown, and may raise CannotMeasureError. Raises RegistryError if MLflow cannot be reached or rejects a request.
    """
    experiment_id = connect(params)
    name, evidence = params.registration.name, submission.evidence
    decided_on = _evidence_hash(evidence)
    client = mlflow.MlflowClient()
    try:
        version = _version_of(name, submission.candidate)
        if version is not None and _is_decided(version, decided_on, approval):
            return _registration(version, is_new=False)
        own = {**_metric_tags(submission.metrics), DATA_HASH_TAG: evidence.data_hash}
        own |= {CODE_TAG: evidence.code_hash, DECIDED_ON_TAG: decided_on}
        if version is None:
            version = _make_version(params, submission, experiment_id, {**submission.tags, **own})
        elif DECISION_TAG in version.tags and version.tags.get(DECIDED_ON_TAG) != decided_on:
            # The old decision is deleted first, so that an interrupted call does not leave it in place.
            client.delete_model_version_tag(name, version.version, DECISION_TAG)
            client.log_artifact(str(version.run_id), str(evidence.queries), gate_folder(evidence.data_hash))
            for tag, value in own.items():
                client.set_model_version_tag(name, version.version, tag, value)
        unmeasured: dict[str, str] = {}
        for _ in range(MOST_MEASUREMENTS):
            champion = decide_version(version, evidence, params.registration, approval, unmeasured)
            if champion is None:
                return _registration(version, is_new=True)
            try:
                measure_champion(champion, evidence, measure, submission.documents.lineage.parent if submission.documents else None)
            except CannotMeasureError as error:
                unmeasured[champion.version] = str(error)
        raise RegistryError(f"The champion of '{name}' changes faster than it can be evaluated. Run `reelnest register` again.")
    except (MlflowException, OSError) as error:  # requests raises OSErrors
        raise error_type(error)(
            f"MLflow's registry rejected model '{name}': {error}. Run `reelnest register` again; it continues from here."
        ) from error


def _evidence_hash(evidence: Evidence) -> str:
    behaviour = None if evidence.behaviour is None else evidence.behaviour.model_dump(mode="json")
    return value_hash([evidence.data_hash, evidence.code_hash, behaviour, evidence.validation_passed, evidence.no_test])


def _is_decided(version: ModelVersion, decided_on: str, approval: Approval | None) -> bool:
    """Returns whether nothing is left to do.

    A rollback is not decided again; a version that waits is decided again when a person has responded.
    """
    decision = version.tags.get(DECISION_TAG)
    if decision is None or (decision == WAITS and approval is not None):
        return False
    by_hand = version.tags.get(REASON_TAG, "").startswith(TAKEN_BACK)
    return by_hand or version.tags.get(DECIDED_ON_TAG) == decided_on


def _version_of(name: str, candidate: Candidate) -> ModelVersion | None:
    versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}' and tags.`{MODEL_HASH_TAG}` = '{candidate.hash}'")
    return min(versions, key=lambda version: int(version.version), default=None)


def _make_version(params: Params, submission: Submission, experiment_id: str, tags: Mapping[str, str]) -> ModelVersion:
    candidate, evidence = submission.candidate, submission.evidence
    run_id = candidate_run(candidate, experiment_id)
    client = mlflow.MlflowClient()
    # Later challengers are compared with this file. An evaluation on other data does not overwrite it.
    client.log_artifact(run_id, str(evidence.queries), gate_folder(evidence.data_hash))
    model_id = logged_model(candidate, experiment_id) or log_model(params, candidate, run_id, submission.documents)
    name = params.registration.name
    try:
        client.create_registered_model(name, description="Nested (Matryoshka) vectors of texts and videos, by reelnest.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(
        name, source=f"models:/{model_id}", run_id=run_id, model_id=model_id, tags={**tags, MODEL_HASH_TAG: candidate.hash}
    )
    first = _version_of(name, candidate)
    if first is None or first.version == created.version:
        return created
    # Another run registered the same model in the meantime. Its version is used, and decided here if that run has not done so yet.
    client.delete_model_version(name, created.version)
    if first.source != created.source:
        client.delete_logged_model(model_id)
    return first


def _metric_tags(metrics: Mapping[str, float]) -> dict[str, str]:
    return {logged_name(metric): repr(value) for metric, value in metrics.items()}


def _registration(version: ModelVersion, *, is_new: bool) -> Registration:
    client = mlflow.MlflowClient()
    current: Any = client.get_model_version(version.name, version.version)
    return Registration(
        name=current.name,
        version=int(current.version),
        aliases=tuple(sorted(current.aliases)),
        decision=current.tags[DECISION_TAG],
        reason=current.tags[REASON_TAG],
        conditions=tuple(ConditionResult(**condition) for condition in json.loads(current.tags.get(CONDITIONS_TAG, "[]"))),
        differences=tuple(Difference(**difference) for difference in json.loads(current.tags.get(DIFFERENCES_TAG, "[]"))),
        run_id=current.run_id,
        is_new=is_new,
    )
