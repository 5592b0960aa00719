"""Registration: the evaluated candidate becomes a version in MLflow's registry, and champion where it is the better one.

Not a DVC stage: its effects are outside. Calling it again for the same candidate finds it done.
"""

import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reelnest.atomic_files import write_json
from reelnest.errors import RegistryError
from reelnest.evaluation.evaluation import ALL
from reelnest.registry.candidate import Candidate
from reelnest.registry.promotion.decision import WAITS, Answer, Evidence
from reelnest.registry.promotion.evaluation_log import QUERY_METRICS_FILE
from reelnest.registry.versions.versions import ModelVersion, register_candidate
from reelnest.settings import Params
from reelnest.stages.documents import documented, told_lineage
from reelnest.stages.workspace import Workspace

log = logging.getLogger(__name__)


def run(workspace: Workspace, params: Params, answer: Answer | None = None) -> None:
    """Registers `models/candidate/` with the figures of `reports/evaluation.json`, and writes `reports/registration.json`.

    `answer` is a person's to a model that waited for it (`register.approval`).
    Raises RegistryError where the candidate is missing or not the model that was evaluated, and if MLflow cannot be reached or refuses.
    """
    candidate = Candidate.of(workspace.candidate)
    evaluation = _evaluation(workspace.reports / "evaluation.json", candidate)
    metrics = _metrics_at_full_width(evaluation)
    queries = workspace.reports / QUERY_METRICS_FILE
    if not queries.is_file():
        raise RegistryError(f"{queries}: no such file. Run `reelnest evaluate` first: the champion is compared query by query.")
    evidence = Evidence(
        queries=queries,
        data_hash=evaluation["data"]["hash"],
        code_hash=evaluation["code"]["hash"],
        validation_passed=_validation_passed(workspace.reports / "validation.json"),
        behaviour=evaluation["behaviour"],
    )
    measure = functools.partial(_measure, workspace, params, evaluation)
    with documented(workspace, params, candidate, evaluation) as (lineage, documents):
        tags = {"reelnest.width": str(evaluation["width"]), **lineage.tags}
        found = register_candidate(params, candidate, metrics, evidence, tags, measure, answer, documents)
    write_json(
        workspace.reports / "registration.json",
        {
            "name": found.name,
            "version": found.version,
            "aliases": list(found.aliases),
            "decision": found.decision,
            "reason": found.reason,
            "conditions": [asdict(one) for one in found.conditions],
            "differences": [asdict(one) for one in found.differences],
            "metric": params.registration.metric,
            "value": metrics[params.registration.metric],
            "run_id": found.run_id,
            "model_hash": candidate.hash,
            "lineage": told_lineage(params, found.version),
        },
    )
    if found.decision == WAITS:
        log.info(
            "%s version %d waits for a person's approval: in Prefect, where the flow asks, or `reelnest promote %d`",
            *(found.name, found.version, found.version),
        )
    elif found.is_new:
        log.info("registered %s version %d (%s): %s", found.name, found.version, found.decision, found.reason)
    else:
        log.info("nothing to do: this model is %s version %d already (%s)", found.name, found.version, found.decision)


def _measure(workspace: Workspace, params: Params, evaluation: Mapping[str, Any], version: ModelVersion, folder: Path) -> None:
    from reelnest.stages.measure import measure  # torch takes seconds to import, and most registrations need none of it

    measure(workspace, params, evaluation, version, folder)


def _validation_passed(path: Path) -> bool | None:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["passed"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"{path}: not a report that this version wrote: {error!r}. Run `reelnest validate` again.") from error


def _evaluation(path: Path, candidate: Candidate) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        evaluated, *_ = found["model"]["hash"], found["code"]["hash"], found["behaviour"]["hash"]
    except FileNotFoundError:
        raise RegistryError(f"{path}: no such file. Run `reelnest evaluate` first: a version carries its figures.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"{path}: not an evaluation that this version wrote: {error!r}. Run `reelnest evaluate` again.") from error
    if evaluated != candidate.hash:
        raise RegistryError(
            f"{path}: measures another model ({evaluated[:12]}) than {candidate.folder} holds ({candidate.hash[:12]})."
            " Run `reelnest evaluate`."
        )
    return found


def _metrics_at_full_width(evaluation: dict[str, Any]) -> dict[str, float]:
    for result in evaluation["results"]:
        if result["pair_kind"] == ALL and result["dim"] == evaluation["width"]:
            metrics: dict[str, float] = result["metrics"]
            return metrics
    raise RegistryError("reports/evaluation.json: no figures over all queries at the full width. Run `reelnest evaluate` again.")
