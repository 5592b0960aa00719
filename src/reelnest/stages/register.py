"""Registration: makes the evaluated candidate a version in MLflow's registry, and promotes it to champion if it passes the gate.

This is not a DVC stage, because it changes MLflow and not files. Calling it again for the same candidate has no further effect.
"""

import functools
import logging
from pathlib import Path

from reelnest.artifacts.evaluation_report import ALL, EvaluationReport
from reelnest.artifacts.registration_report import PROMOTED, WAITS, RegistrationReport
from reelnest.artifacts.validation_report import ValidationReport
from reelnest.errors import RegistryError
from reelnest.evaluation.by_query import QUERY_METRICS_FILE
from reelnest.registry.candidate import Candidate
from reelnest.registry.promotion.decision import Evidence, differences_table
from reelnest.registry.promotion.verdict import Approval
from reelnest.registry.versions.versions import ModelVersion, Registration, Submission, register_candidate
from reelnest.settings import Params
from reelnest.stages.documents import documented, origins_of
from reelnest.stages.workspace import Workspace

log = logging.getLogger(__name__)


def run(workspace: Workspace, params: Params, approval: Approval | None = None) -> None:
    """Registers `models/candidate/` with the metrics of `reports/evaluation.json`, and writes `reports/registration.json`.

    `approval` is a person's decision on a model that waits for approval (`register.approval`).
    Raises ArtifactError if a report is missing or invalid; RegistryError if the candidate is missing, is not the evaluated model, or MLflow
    is unreachable or rejects a request, or if the version was decided the other way before.
    """
    candidate = Candidate.of(workspace.candidate)
    evaluation = _evaluation(workspace.reports, candidate)
    metrics = evaluation.by_dim[evaluation.width].metrics
    queries = workspace.reports / QUERY_METRICS_FILE
    if not queries.is_file():
        raise RegistryError(f"{queries} is missing, and the champion is compared query by query. Run `reelnest evaluate`.")
    validation = ValidationReport.read_if_there(workspace.reports)
    evidence = Evidence(
        queries=queries,
        data_hash=evaluation.data.hash,
        code_hash=evaluation.code.hash,
        validation_passed=None if validation is None else validation.passed,
        behaviour=evaluation.behaviour,
        no_test=evaluation.no_test.get(ALL, {}).get(params.registration.metric, ""),
    )
    measure = functools.partial(_measure, workspace, params, evaluation)
    with documented(workspace, params, candidate, evaluation) as (lineage, documents):
        tags = {"reelnest.width": str(evaluation.width), **lineage.tags}
        registration = register_candidate(params, Submission(candidate, metrics, evidence, tags, documents), measure, approval)
    RegistrationReport(
        name=registration.name,
        version=registration.version,
        aliases=registration.aliases,
        decision=registration.decision,
        reason=registration.reason,
        conditions=registration.conditions,
        differences=registration.differences,
        metric=params.registration.metric,
        value=metrics[params.registration.metric],
        run_id=registration.run_id,
        model_hash=candidate.hash,
        lineage=origins_of(params, registration.version),
    ).write(workspace.reports)
    _check_approval(registration, approval)
    _log(registration, params.registration.metric)


def _check_approval(registration: Registration, approval: Approval | None) -> None:
    """Raises RegistryError for a person's decision on a version that was decided the other way before. Repeating a decision is no error."""
    if approval is None or registration.is_new or approval.granted == (registration.decision == PROMOTED):
        return
    undo = f"`reelnest promote {registration.version}`" if approval.granted else "`reelnest rollback`"
    raise RegistryError(
        f"{registration.name} version {registration.version} does not wait for approval: its decision is '{registration.decision}'."
        f" To change that, run {undo}."
    )


def _measure(workspace: Workspace, params: Params, evaluation: EvaluationReport, version: ModelVersion, folder: Path) -> None:
    from reelnest.stages.measure import measure  # torch takes seconds to import, and most registrations do not need it

    measure(workspace, params, evaluation, version, folder)


def _evaluation(reports: Path, candidate: Candidate) -> EvaluationReport:
    evaluation = EvaluationReport.read(reports)
    if evaluation.model.hash != candidate.hash:
        raise RegistryError(
            f"{reports / EvaluationReport.FILE} is of another model ({evaluation.model.hash[:12]}) than the one in {candidate.folder}"
            f" ({candidate.hash[:12]}). Run `reelnest evaluate`."
        )
    return evaluation


def _log(registration: Registration, metric: str) -> None:
    """Logs the verdict in one line, then a table by dim."""
    name, version = registration.name, registration.version
    if registration.decision == WAITS:
        log.info(
            "%s version %d waits for approval: resume the paused flow run in Prefect, or run `reelnest register --approved 'NAME: WHY'`"
            " or `--refused`",
            *(name, version),
        )
    elif registration.is_new:
        log.info("registered %s version %d (%s): %s", name, version, registration.decision, registration.reason)
    else:
        log.info("nothing to do: this model is already registered as %s version %d (%s)", name, version, registration.decision)
        return
    for line in differences_table(metric, registration.differences):
        log.info("%s", line)
