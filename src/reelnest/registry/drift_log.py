"""What MLflow holds of a champion on data that it was not trained on: its figures by query, and the report of how that data has drifted.

Both stand with the champion's own run, which clean-up keeps for as long as the champion stays: the figures where the gate looks for them,
so that whichever comes first measures for both, and a report for each version of the data.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from reelnest.errors import NothingTracked, RegistryError
from reelnest.evaluation.by_query import CODE, QUERY_METRICS_FILE
from reelnest.registry.connection import connect_to_read, without_credentials
from reelnest.registry.promotion.aliases import champion_of, version_of
from reelnest.registry.promotion.evaluation_log import DATA_HASH_TAG, gate_folder, stored_query_metrics
from reelnest.settings import Params

DRIFT_TAG = "reelnest.drift"
"""Of a champion's run: what was found of the newest data that was looked at."""
DRIFT_FOLDER = "drift"


@dataclass(frozen=True)
class Figures:
    """A model's figures by query on one test split."""

    table: pd.DataFrame
    data_hash: str

    @property
    def code(self) -> str | None:
        """The hash of the code that made them."""
        found: str | None = self.table.attrs.get(CODE)
        return found


@dataclass(frozen=True)
class Kept:
    """Where the report is in MLflow."""

    tracking_uri: str
    experiment_id: str
    run_id: str
    folder: str


def champion(params: Params) -> ModelVersion | None:
    """The version that carries the alias; None where none does. Raises RegistryError where MLflow cannot be reached."""
    try:
        connect_to_read(params)
        return champion_of(params.registration.name)
    except NothingTracked:
        return None
    except (MlflowException, OSError) as error:
        raise RegistryError(f"MLflow's registry cannot be read: {error}") from error


class ChampionsRun:
    """The MLflow run of a version. What MLflow refuses raises RegistryError."""

    def __init__(self, params: Params, number: str) -> None:
        connect_to_read(params)
        self._client = mlflow.MlflowClient()
        try:
            self.version = version_of(params.registration.name, number)
            self._run = self._find()
        except (MlflowException, OSError) as error:
            raise RegistryError(f"MLflow's registry cannot be read: {error}") from error

    @property
    def is_there(self) -> bool:
        """Whether the run was not deleted."""
        return self._run is not None

    def registered_figures(self) -> Figures | None:
        """Those that the version was registered with."""
        return self.figures(self.version.tags.get(DATA_HASH_TAG, ""))

    def figures(self, data_hash: str) -> Figures | None:
        """Those on the test split of that hash; None where there are none."""
        try:
            table = stored_query_metrics(self.version.run_id, f"{gate_folder(data_hash)}/{QUERY_METRICS_FILE}")
        except (MlflowException, OSError) as error:
            raise RegistryError(f"The champion's figures cannot be read from MLflow: {error}") from error
        return None if table is None else Figures(table, data_hash)

    def keep_figures(self, data_hash: str, file: Path) -> None:
        """Adds those of a new test split."""
        try:
            self._client.log_artifact(str(self.version.run_id), str(file), gate_folder(data_hash))
        except (MlflowException, OSError) as error:
            raise RegistryError(f"MLflow does not take the champion's figures: {error}. Start it again.") from error

    def keep_report(self, data: str, headline: str, effects: Mapping[str, float], files: Sequence[Path]) -> Kept | None:
        """Adds the report of one version of the data, in place of an earlier one of the same. None where the run is gone."""
        if self._run is None:
            return None
        info = self._run.info
        folder, now = f"{DRIFT_FOLDER}/{data[:16]}", int(time.time() * 1000)
        try:
            for file in files:
                self._client.log_artifact(info.run_id, str(file), folder)
            self._client.log_batch(info.run_id, metrics=[Metric(f"drift/{name}", effect, now, 0) for name, effect in effects.items()])
            self._client.set_tag(info.run_id, DRIFT_TAG, headline)
        except (MlflowException, OSError) as error:
            raise RegistryError(f"MLflow does not take the drift report: {error}. The files in reports/ are whole.") from error
        return Kept(without_credentials(mlflow.get_tracking_uri()), info.experiment_id, info.run_id, folder)

    def _find(self) -> mlflow.entities.Run | None:
        if not self.version.run_id:
            return None
        try:
            run = self._client.get_run(self.version.run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None
