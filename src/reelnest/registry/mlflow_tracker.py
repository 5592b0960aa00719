"""The tracker that records a training in MLflow."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import mlflow
from mlflow.entities import Metric, Param, RunStatus
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from reelnest.errors import RegistryError
from reelnest.registry.connection import connect
from reelnest.registry.run_datasets import training_inputs
from reelnest.registry.run_notes import NOTE_TAG, TrackedData, run_name, training_note
from reelnest.settings import Params
from reelnest.training.tracker import Status

log = logging.getLogger(__name__)

BATCH = 900
"""Metrics per request. MLflow accepts at most 1000."""
LONGEST_PARAM = 6000
"""Characters. MLflow rejects longer values."""
LARGEST_ARTIFACT = 1 << 30
"""Bytes. A tracking server that proxies its storage times out on larger files. Adapters are smaller, base weights are not."""
SECONDS_BETWEEN_TRIES = 15.0
"""Seconds between attempts while the server is unreachable."""


class MlflowTracker:
    """An MLflow run. While MLflow is unreachable, metrics and files wait here. At the end, a warning counts those not delivered."""

    name = "mlflow"

    def __init__(self, params: Params, key: str, run: str | None, tags: Mapping[str, str], data: TrackedData | None) -> None:
        experiment = connect(params)
        self._uri = mlflow.get_tracking_uri()
        self._client = mlflow.MlflowClient(self._uri)
        self._waiting: list[Metric] = []
        self._artifacts: list[tuple[Path, str]] = []
        self._away_since: float | None = None
        self._last_try = 0.0
        try:
            self.is_new = run is None or not self._continue(run, experiment)
            if run is None or self.is_new:
                all_tags = {**tags, "reelnest.training_key": key, NOTE_TAG: training_note(params, data)}
                run = self._client.create_run(experiment, run_name=run_name(params, key, data), tags=all_tags).info.run_id
                if data is not None:
                    self._client.log_inputs(run, training_inputs(data))
        except MlflowException as error:
            raise RegistryError(f"MLflow at tracking.uri: no run could be created: {error.message}") from error
        self.run: str = run
        if not MLFLOW_HTTP_REQUEST_MAX_RETRIES.is_set() or MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() > 1:
            # From here on, an unreachable server must not delay the training: metrics wait here, not in a retry.
            MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(1)
        MLFLOW_HTTP_REQUEST_TIMEOUT.set(min(MLFLOW_HTTP_REQUEST_TIMEOUT.get(), 30))
        self._monitor = self._start_monitor(resume=not self.is_new)

    def log_params(self, params: Mapping[str, str]) -> None:
        """Logs the settings. Call it once, for a new run: MLflow does not change logged values."""
        entries = [Param(name, value[:LONGEST_PARAM]) for name, value in params.items()]
        for start in range(0, len(entries), 100):
            self._deliver(lambda batch=entries[start : start + 100]: self._client.log_batch(self.run, params=batch))  # type: ignore[misc]  # a default binds it

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs the metrics of one step with the current time, even if they are delivered later."""
        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, step) for name, value in metrics.items()]
        if self._away_since is None or time.monotonic() - self._last_try > SECONDS_BETWEEN_TRIES:
            self._flush()

    def log_artifact(self, path: Path, folder: str) -> None:
        """Uploads a file, unless it is too large for a tracking server."""
        size = path.stat().st_size
        if size > LARGEST_ARTIFACT:
            log.warning("MLflow: %s has %.1f GB, too much for a tracking server, and is not uploaded", path, size / 1e9)
            return
        if not self._deliver(lambda: self._client.log_artifact(self.run, str(path), folder)):
            self._artifacts.append((path, folder))

    def close(self, status: Status) -> None:
        """Delivers waiting metrics and files, ends the run, and logs how many could not be delivered."""
        self._flush()
        self._artifacts = [
            (path, folder)
            for path, folder in self._artifacts
            if not self._deliver(lambda path=path, folder=folder: self._client.log_artifact(self.run, str(path), folder))  # type: ignore[misc]  # a default binds it
        ]
        self._monitor.finish()
        ended = self._deliver(lambda: self._client.set_terminated(self.run, status))
        if self._waiting or self._artifacts or not ended:
            log.warning(
                "MLflow run %s: %d metrics, %d files%s could not be delivered; reports/training.csv has every step",
                self.run,
                len(self._waiting),
                len(self._artifacts),
                "" if ended else f" and its final status ({status})",
            )

    def _continue(self, run: str, experiment: str) -> bool:
        try:
            earlier = self._client.get_run(run)
        except MlflowException as error:
            log.warning("MLflow: the run %s of the earlier process no longer exists (%s); starting a new one", run, error.message)
            return False
        if earlier.info.lifecycle_stage != "active" or earlier.info.experiment_id != experiment:
            return False
        self._client.update_run(run, status=RunStatus.to_string(RunStatus.RUNNING))
        return True

    def _start_monitor(self, *, resume: bool) -> SystemMetricsMonitor:
        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        monitor = SystemMetricsMonitor(self.run, resume_logging=resume, tracking_uri=self._uri)
        monitor.start()
        return monitor

    def _flush(self) -> None:
        while self._waiting:
            batch = self._waiting[:BATCH]
            if not self._deliver(lambda batch=batch: self._client.log_batch(self.run, metrics=batch)):  # type: ignore[misc]  # a default binds it
                return
            del self._waiting[: len(batch)]

    def _deliver(self, send: Callable[[], object]) -> bool:
        """Sends a request and returns whether it succeeded. Logs when MLflow becomes unreachable and when it is back."""
        self._last_try = time.monotonic()
        try:
            send()
        except (MlflowException, OSError) as error:  # requests' errors are OSErrors
            if self._away_since is None:
                self._away_since = time.monotonic()
                log.warning("MLflow did not accept metrics (%s); training continues, and they are sent later", str(error).splitlines()[0])
            return False
        if self._away_since is not None:
            log.warning("MLflow is back after %.0f s", time.monotonic() - self._away_since)
            self._away_since = None
            # MLflow's monitor thread stops at the first failure.
            self._monitor.finish()
            self._monitor = self._start_monitor(resume=True)
        return True
