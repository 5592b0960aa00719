"""The repeated evaluation of the champion on the current test data, for the gate. It is needed when the data or the code changed."""

import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow.entities.model_registry import ModelVersion as ModelVersion
from mlflow.exceptions import MlflowException

from reelnest.encoder.saved_settings import SETTINGS_FILE
from reelnest.registry.connection import active_run
from reelnest.registry.promotion.decision import Evidence
from reelnest.registry.promotion.evaluation_log import gate_folder

log = logging.getLogger(__name__)


class CannotMeasureError(Exception):
    """A champion cannot be evaluated again."""


def measure_champion(
    champion: ModelVersion, evidence: Evidence, measure: Callable[[ModelVersion, Path], None], scratch: Path | None
) -> None:
    """Evaluates the champion on the current data and logs its metrics to its run, so that this happens only once.

    `scratch` is a folder for temporary files, which a job on another machine can read; None for one of this machine. Raises
    CannotMeasureError if this is not possible.
    """
    log.info("version %s, the champion, was evaluated on other data or by other code; evaluating it again", champion.version)
    client = mlflow.MlflowClient()
    where = f"the champion (version {champion.version}) was evaluated on other data or by other code, and"
    advice = "a person must decide whether this model replaces it (`reelnest promote`)"
    if active_run(champion.run_id) is None:
        raise CannotMeasureError(f"{where} its run, which has its metrics, was deleted: {advice}")
    with TemporaryDirectory(prefix="measuring-", dir=scratch) as folder:
        try:
            measure(champion, Path(folder))
        except CannotMeasureError as error:
            raise CannotMeasureError(f"{where} {error}: {advice}") from error
        client.log_artifact(str(champion.run_id), str(Path(folder) / evidence.queries.name), gate_folder(evidence.data_hash))


def saved_model_of(version: ModelVersion, folder: Path) -> Path:
    """Downloads the saved model of a version into `folder`, and returns its path. Raises CannotMeasureError if it is missing."""
    try:
        downloaded = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{version.name}/{version.version}", dst_path=str(folder))
    except (MlflowException, OSError) as error:
        if isinstance(error, MlflowException) and error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        downloaded = str(folder)
    settings = next(Path(downloaded).glob(f"artifacts/*/{SETTINGS_FILE}"), None)
    if settings is None:
        raise CannotMeasureError("its files are missing from MLflow's storage")
    return settings.parent
