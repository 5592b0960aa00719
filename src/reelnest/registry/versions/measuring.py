"""The champion, measured again on the present test data: what the gate compares with where the data or the code changed."""

import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow.entities.model_registry import ModelVersion as ModelVersion
from mlflow.exceptions import MlflowException

from reelnest.encoder.saved_settings import SETTINGS_FILE
from reelnest.registry.promotion.decision import Evidence
from reelnest.registry.promotion.evaluation_log import gate_folder

log = logging.getLogger(__name__)


class CannotMeasureError(Exception):
    """Why a champion cannot be evaluated again."""


def measure_champion(champion: ModelVersion, evidence: Evidence, measure: Callable[[ModelVersion, Path], None]) -> None:
    """Evaluates the champion on the present data and keeps its metrics with its run, so that it is done once.

    Raises CannotMeasureError where that cannot be.
    """
    log.info("version %s, the champion, was evaluated on other data or by other code: evaluating it again", champion.version)
    client = mlflow.MlflowClient()
    where = f"the champion (version {champion.version}) was evaluated on other data or by other code, and"
    person = "whether this model may take its place, a person has to say (`reelnest promote`)"
    try:
        kept = client.get_run(str(champion.run_id)).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        kept = False
    if not kept:
        raise CannotMeasureError(f"{where} its run, which keeps its metrics, is gone: {person}")
    with TemporaryDirectory(prefix="reelnest-") as folder:
        try:
            measure(champion, Path(folder))
        except CannotMeasureError as error:
            raise CannotMeasureError(f"{where} {error}: {person}") from error
        client.log_artifact(str(champion.run_id), str(Path(folder) / evidence.queries.name), gate_folder(evidence.data_hash))


def saved_model_of(version: ModelVersion, folder: Path) -> Path:
    """Downloads the saved model of a version into `folder`, and returns where it is there. Raises CannotMeasureError where it is gone."""
    try:
        held = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{version.name}/{version.version}", dst_path=str(folder))
    except (MlflowException, OSError) as error:
        if isinstance(error, MlflowException) and error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        held = str(folder)
    found = next(Path(held).glob(f"artifacts/*/{SETTINGS_FILE}"), None)
    if found is None:
        raise CannotMeasureError("its files are gone from MLflow's storage")
    return found.parent
