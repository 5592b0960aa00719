"""Registration: the evaluated candidate becomes a version in MLflow's registry, and champion where it is the better one.

Not a DVC stage: its effects are outside. Calling it again for the same candidate finds it done.
"""

import functools
import logging
from pathlib import Path

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.artifacts.registration_report import WAITS, RegistrationReport
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

    `approval` is a person's word on a model that waited for it (`register.approval`).
    Raises ArtifactError where a report is missing or broken, RegistryError where the candidate is missing or not the model that was
    evaluated, and if MLflow cannot be reached or refuses.
    """
    candidate = Candidate.of(workspace.candidate)
    evaluation = _evaluation(workspace.reports, candidate)
    metrics = evaluation.by_dim[evaluation.width].metrics
    queries = workspace.reports / QUERY_METRICS_FILE
    if not queries.is_file():
        raise RegistryError(f"{queries}: no such file. Run `reelnest evaluate` first: the champion is compared query by query.")
    validation = ValidationReport.read_if_there(workspace.reports)
    evidence = Evidence(
        queries=queries,
        data_hash=evaluation.data.hash,
        code_hash=evaluation.code.hash,
        validation_passed=None if validation is None else validation.passed,
        behaviour=evaluation.behaviour,
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
    _log(registration, params.registration.metric)


def _measure(workspace: Workspace, params: Params, evaluation: EvaluationReport, version: ModelVersion, folder: Path) -> None:
    from reelnest.stages.measure import measure  # torch takes seconds to import, and most registrations need none of it

    measure(workspace, params, evaluation, version, folder)


def _evaluation(reports: Path, candidate: Candidate) -> EvaluationReport:
    evaluation = EvaluationReport.read(reports)
    if evaluation.model.hash != candidate.hash:
        raise RegistryError(
            f"{reports / EvaluationReport.FILE}: measures another model ({evaluation.model.hash[:12]}) than {candidate.folder} holds"
            f" ({candidate.hash[:12]}). Run `reelnest evaluate`."
        )
    return evaluation


def _log(registration: Registration, metric: str) -> None:
    """The verdict in a line, then a table by dim."""
    name, version = registration.name, registration.version
    if registration.decision == WAITS:
        log.info(
            "%s version %d waits for a person's approval: in Prefect, where the flow asks, or `reelnest promote %d`", name, version, version
        )
    elif registration.is_new:
        log.info("registered %s version %d (%s): %s", name, version, registration.decision, registration.reason)
    else:
        log.info("nothing to do: this model is %s version %d already (%s)", name, version, registration.decision)
        return
    for line in differences_table(metric, registration.differences):
        log.info("%s", line)
