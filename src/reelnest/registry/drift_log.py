"""A champion's results on new data in MLflow: its metrics by query, and the drift report of each version of the data.

Both are files of the champion's run, which clean-up does not delete while the version is champion. The gate reads the same metrics, so the
champion is measured only once on new data.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion

from reelnest.addresses import without_credentials
from reelnest.errors import NothingTracked
from reelnest.evaluation.by_query import CODE, QUERY_METRICS_FILE
from reelnest.registry.connection import UNREADABLE, active_run, connect_to_read, registry_errors
from reelnest.registry.promotion.aliases import champion_of, version_of
from reelnest.registry.promotion.evaluation_log import DATA_HASH_TAG, gate_folder, stored_query_metrics
from reelnest.settings import Params

DRIFT_TAG = "reelnest.drift"
"""Tag of a champion's run: the headline of the latest drift report."""
DRIFT_FOLDER = "drift"


@dataclass(frozen=True)
class StoredMetrics:
    """A model's metrics by query on one test split."""

    table: pd.DataFrame
    data_hash: str

    @property
    def code(self) -> str | None:
        """The hash of the code that measured them."""
        code: str | None = self.table.attrs.get(CODE)
        return code


@dataclass(frozen=True)
class LoggedReport:
    """The location of a drift report in MLflow."""

    tracking_uri: str
    experiment_id: str
    run_id: str
    folder: str


def champion(params: Params) -> ModelVersion | None:
    """Returns the version with the alias `champion`, or None. Raises RegistryError if MLflow cannot be reached."""
    try:
        connect_to_read(params)
    except NothingTracked:
        return None
    with registry_errors(UNREADABLE):
        version = champion_of(params.registration.name)
    return version


class ChampionRun:
    """The MLflow run of a version. Errors of MLflow become RegistryError."""

    def __init__(self, params: Params, number: str) -> None:
        connect_to_read(params)
        self._client = mlflow.MlflowClient()
        with registry_errors(UNREADABLE):
            self.version = version_of(params.registration.name, number)
            self._run = active_run(self.version.run_id)

    @property
    def is_there(self) -> bool:
        """Whether the run exists and was not deleted."""
        return self._run is not None

    def registered_metrics(self) -> StoredMetrics | None:
        """Returns the metrics with which the version was registered."""
        return self.metrics(self.version.tags.get(DATA_HASH_TAG, ""))

    def metrics(self, data_hash: str) -> StoredMetrics | None:
        """Returns the metrics on the test split with that hash; None if there are none."""
        with registry_errors("The champion's metrics cannot be read from MLflow"):
            table = stored_query_metrics(self.version.run_id, f"{gate_folder(data_hash)}/{QUERY_METRICS_FILE}")
        return None if table is None else StoredMetrics(table, data_hash)

    def log_metrics(self, data_hash: str, file: Path) -> None:
        """Uploads the metrics on a new test split."""
        with registry_errors("The champion's metrics cannot be uploaded to MLflow"):
            self._client.log_artifact(str(self.version.run_id), str(file), gate_folder(data_hash))

    def log_report(self, data: str, headline: str, effects: Mapping[str, float], files: Sequence[Path]) -> LoggedReport | None:
        """Uploads the report of one version of the data and replaces an earlier one. Returns None if the run was deleted."""
        if self._run is None:
            return None
        info = self._run.info
        folder, now = f"{DRIFT_FOLDER}/{data[:16]}", int(time.time() * 1000)
        with registry_errors("The drift report cannot be uploaded to MLflow", "The files in reports/ are complete."):
            for file in files:
                self._client.log_artifact(info.run_id, str(file), folder)
            self._client.log_batch(info.run_id, metrics=[Metric(f"drift/{name}", effect, now, 0) for name, effect in effects.items()])
            self._client.set_tag(info.run_id, DRIFT_TAG, headline)
        return LoggedReport(without_credentials(mlflow.get_tracking_uri()), info.experiment_id, info.run_id, folder)
