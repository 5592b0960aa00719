"""The lineage of a registered version. It is one of the version's files, so that it exists as long as the model does.

The folder `artifacts/lineage/` has `lineage.json` (a `Lineage`) and the files that it refers to: `params.yaml`, `data.dvc`, `dvc.lock`,
`requirements.txt` (the installed packages), `validation.json`, `evaluation.json`, and `changes.diff` if the checkout was not clean. The
version's tags also have the values that versions are searched by.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from pydantic import BaseModel, ValidationError

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.artifacts.lineage import Commit, DataVersion, Environment, FlowRun, Origins, ValidatedData
from reelnest.artifacts.validation_report import ValidationReport
from reelnest.errors import RegistryError
from reelnest.messages import some_of
from reelnest.registry.connection import UNREADABLE, active_run, connect_to_read, registry_errors
from reelnest.registry.known_versions import MODEL_HASH_TAG, check_source, named_version
from reelnest.registry.lineage.checkout import read_checkout
from reelnest.registry.lineage.dvc_lock import DATA_FILE, LOCK_FILE, data_version, read_yaml, stale_inputs
from reelnest.registry.lineage.environment import environment, installed
from reelnest.registry.lineage.run_tags import COMMIT_TAG, FLOW_RUN_TAG
from reelnest.registry.promotion.aliases import version_of
from reelnest.settings import Params, flow_run

LINEAGE_FOLDER = "lineage"
LINEAGE_FILE = "lineage.json"
CHANGES_FILE = "changes.diff"
REQUIREMENTS_FILE = "requirements.txt"
REPORTS = (ValidationReport.FILE, EvaluationReport.FILE)
MOST_CHANGES = 20_000_000
"""Bytes of uncommitted changes. Larger changes contain data or weights rather than code, and are not saved."""

DATA_TAG = "reelnest.data"
SEARCHED_TAGS = (COMMIT_TAG, DATA_TAG, FLOW_RUN_TAG, MODEL_HASH_TAG)

log = logging.getLogger(__name__)


class Lineage(BaseModel):
    """The origins of a registered model. A field is None if its information is not available."""

    model_hash: str
    commit: Commit | None
    data: DataVersion | None
    dvc_lock: bool
    stale: list[str]
    """Code and settings that changed after the stages ran, by `dvc.lock`. The saved files then differ from those of the training."""
    validation: ValidatedData | None
    evaluation_data: str
    """The hash of the queries and their relevant items."""
    flow_run: FlowRun | None
    environment: Environment

    @property
    def origins(self) -> Origins:
        """The summary for reports."""
        return Origins(commit=self.commit, data=self.data, flow_run=self.flow_run, validation=self.validation, environment=self.environment)

    @property
    def tags(self) -> dict[str, str]:
        """The tags by which the version can be searched."""
        commit = self.commit and self.commit.hash + ("" if self.commit.clean else "-dirty")
        tags = {COMMIT_TAG: commit, DATA_TAG: self.data and self.data.hash, FLOW_RUN_TAG: self.flow_run and self.flow_run.id}
        return {name: value for name, value in tags.items() if value}


@dataclass(frozen=True)
class Origin:
    """A version with its MLflow run and its lineage."""

    version: ModelVersion
    run: Any | None
    """The MLflow run; None if it was deleted."""
    lineage: Lineage | None
    """None for a version without a lineage, or whose files were deleted."""
    folder: Path
    """The files of `artifacts/lineage/`. Empty without a lineage."""


def write_lineage(
    root: Path,
    folder: Path,
    model_hash: str,
    evaluation: EvaluationReport,
    validation: ValidationReport | None,
    sample_seed: int | None,
) -> Lineage:
    """Writes the lineage of the model of the project at `root` to the empty `folder`, and returns it."""
    checkout = read_checkout(root)
    commit = None
    if checkout is not None:
        changes_saved = len(checkout.changes) <= MOST_CHANGES
        if checkout.changes and changes_saved:
            (folder / CHANGES_FILE).write_bytes(checkout.changes)
        if not changes_saved:
            log.warning("lineage: the uncommitted changes have %.0f MB, which is too large to save", len(checkout.changes) / 1e6)
        commit = Commit(
            hash=checkout.commit,
            clean=not checkout.changes,
            changes_saved=changes_saved,
            repository=checkout.repository,
            published=checkout.is_published,
            folder=checkout.folder,
        )
    for file in (root / "params.yaml", root / DATA_FILE, root / LOCK_FILE, *(root / "reports" / name for name in REPORTS)):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    packages = installed()
    (folder / REQUIREMENTS_FILE).write_text("".join(f"{line}\n" for line in packages), encoding="utf-8")
    lock, flow = read_yaml(root / LOCK_FILE), flow_run()
    lineage = Lineage(
        model_hash=model_hash,
        commit=commit,
        data=data_version(root, sample_seed),
        dvc_lock=lock is not None,
        stale=stale_inputs(lock, root) if lock else [],
        validation=None if validation is None else ValidatedData.of(validation),
        evaluation_data=evaluation.data.hash,
        flow_run=FlowRun(id=flow[0], url=flow[1]) if flow else None,
        environment=environment(root, packages),
    )
    if lineage.stale:
        log.warning("lineage: changed since the model was trained: %s. Run `dvc repro` before registering.", some_of(lineage.stale))
    (folder / LINEAGE_FILE).write_text(lineage.model_dump_json(indent=2), encoding="utf-8")
    return lineage


def find_origin(params: Params, which: str, folder: Path) -> Origin:
    """Finds a version and downloads its lineage to `folder`. `which` is `models:/name@alias`, `models:/name/3`, an alias or a number.

    Raises RegistryError if there is no such version or MLflow cannot be reached.
    """
    name, which = named_version(which, params.registration.name)
    connect_to_read(params)
    with registry_errors(UNREADABLE):
        version = version_of(name, which)
        origin = Origin(version, active_run(version.run_id), _lineage(version, folder), folder)
    return origin


def versions_from(params: Params, text: str) -> list[ModelVersion]:
    """Returns the versions whose data hash, commit, run, flow run or model hash begins with `text`, newest first.

    Raises RegistryError if `text` is too short, or if MLflow cannot be reached.
    """
    check_source(text)
    connect_to_read(params)
    with registry_errors(UNREADABLE):
        versions = mlflow.MlflowClient().search_model_versions(f"name = '{params.registration.name}'")
    return [
        version
        for version in sorted(versions, key=lambda version: int(version.version), reverse=True)
        if any(name.startswith(text) for name in [version.run_id or "", *(version.tags.get(tag, "") for tag in SEARCHED_TAGS)])
    ]


def trainings_of_flow_runs(params: Params, beginning: str) -> list[tuple[str, str]]:
    """Returns the MLflow runs of flow runs whose id starts with `beginning`, as pairs (MLflow run id, flow run id).

    Raises RegistryError.
    """
    connect_to_read(params)
    client = mlflow.MlflowClient()
    with registry_errors("MLflow's runs cannot be read"):
        experiment = client.get_experiment_by_name(params.tracking.experiment)
        experiments = [] if experiment is None else [experiment.experiment_id]
        runs = client.search_runs(experiments, f"tags.`{FLOW_RUN_TAG}` LIKE '{beginning}%'") if experiments else []
    return [(run.info.run_id, run.data.tags[FLOW_RUN_TAG]) for run in runs]


def _lineage(version: ModelVersion, folder: Path) -> Lineage | None:
    """Returns the lineage in the version's files; None if there is none or the files were deleted."""
    place = f"models:/{version.name}/{version.version}/artifacts"
    try:
        names = {Path(file.path).name for file in mlflow.artifacts.list_artifacts(place)}
        if LINEAGE_FOLDER not in names:
            return None
        downloaded = Path(mlflow.artifacts.download_artifacts(f"{place}/{LINEAGE_FOLDER}", dst_path=str(folder)))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    for file in list(downloaded.iterdir()):
        file.replace(folder / file.name)
    try:
        return Lineage.model_validate_json((folder / LINEAGE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise RegistryError(f"{place}/{LINEAGE_FOLDER}/{LINEAGE_FILE}: not a valid lineage: {error}. Register the model again.") from error
