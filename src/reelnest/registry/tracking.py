"""The trackers MLflow, TensorBoard and Weights & Biases. They implement `reelnest.training.tracker.Tracker`."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunStatus
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from torch.utils.tensorboard import SummaryWriter

from reelnest.atomic_files import atomic_write
from reelnest.errors import ConfigError, RegistryError
from reelnest.registry.connection import connect, without_credentials
from reelnest.registry.run_notes import NOTE_TAG, TrackedData, run_name, training_inputs, training_note
from reelnest.settings import Params, wandb_mode
from reelnest.training.tracker import PROFILE_FOLDER, Status, Tracker, Trackers

log = logging.getLogger(__name__)

BATCH = 900
"""Metrics per request. MLflow accepts at most 1000."""
LONGEST_PARAM = 6000
"""Characters. MLflow rejects longer values."""
LARGEST_ARTIFACT = 1 << 30
"""Bytes. A tracking server that proxies its storage times out on larger files. Adapters are smaller, base weights are not."""
SECONDS_BETWEEN_TRIES = 15.0
"""Seconds between attempts while the server is unreachable."""


def open_trackers(
    params: Params, work: Path, key: str, runs: Mapping[str, str], tags: Mapping[str, str], data: TrackedData | None = None
) -> Trackers:
    """Opens the trackers of `train.trackers`. They continue the `runs` (by tracker name) of an earlier process if these still exist.

    `key` identifies this training. `data` is for the names and notes of new runs.

    Raises RegistryError if MLflow cannot be reached, ConfigError if wandb is not installed.
    """
    opened: list[Tracker] = []
    for name in params.train.trackers:
        if name == "mlflow":
            opened.append(MlflowTracker(params, key, runs.get(name), tags, data))
        elif name == "tensorboard":
            opened.append(TensorBoardTracker(work / "tensorboard" / key, runs.get(name)))
        else:
            opened.append(WandbTracker(params, work, key, runs.get(name), tags, data))
    trackers = Trackers(opened)
    settings = params.model_dump(mode="json", by_alias=True)
    settings["tracking"]["uri"] = without_credentials(params.tracking.uri)
    trackers.newly_begun.log_params(flat_settings(settings))
    return trackers


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Turns `{"train": {"epochs": 3}}` into `{"train.epochs": "3"}`."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(value)
    return flat


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
            self._deliver(lambda batch=entries[start : start + 100]: self._client.log_batch(self.run, params=batch))  # type: ignore[misc]

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
            if not self._deliver(lambda path=path, folder=folder: self._client.log_artifact(self.run, str(path), folder))  # type: ignore[misc]
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
            if not self._deliver(lambda batch=batch: self._client.log_batch(self.run, metrics=batch)):  # type: ignore[misc]
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


class TensorBoardTracker:
    """Event files in a folder. A resumed run adds to them."""

    name = "tensorboard"

    def __init__(self, folder: Path, run: str | None) -> None:
        self.run: str = str(folder)
        self.is_new = run is None or not folder.is_dir()
        self._writer = SummaryWriter(str(folder))

    def log_params(self, params: Mapping[str, str]) -> None:
        """Logs the settings as a table, on the page "Text"."""
        rows = [f"| {name} | {value} |" for name, value in params.items()]
        self._writer.add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *rows]))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs each metric as a scalar."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def log_artifact(self, path: Path, folder: str) -> None:
        """Copies profiler traces beside the events, where TensorBoard's profiler page reads them. It shows no other files."""
        if folder == PROFILE_FOLDER:
            with atomic_write(Path(self.run) / path.name) as copy:
                copy.write(path.read_bytes())

    def close(self, status: Status) -> None:  # noqa: ARG002 (event files know no status)
        """Flushes and closes the event file."""
        self._writer.close()


class WandbTracker:
    """A Weights & Biases run. By default it is offline in `work/wandb/`, for `wandb sync`; WANDB_MODE overrides this."""

    name = "wandb"

    def __init__(self, params: Params, work: Path, key: str, run: str | None, tags: Mapping[str, str], data: TrackedData | None) -> None:
        try:
            import wandb  # an optional dependency
        except ImportError:
            raise ConfigError(
                "params.yaml: train.trackers has wandb, which is not installed. Run: pip install 'reelnest[wandb]', or remove it."
            ) from None
        work.mkdir(parents=True, exist_ok=True)
        self.is_new = run is None
        self._run = wandb.init(
            project=params.tracking.experiment,
            name=run_name(params, key, data),
            id=run,
            resume="allow" if run else None,
            dir=str(work),
            mode=wandb_mode(),
            config=dict(tags),
            settings=wandb.Settings(console="off", silent=True),
        )
        self.run: str = self._run.id

    def log_params(self, params: Mapping[str, str]) -> None:
        """Logs the settings as the run's config."""
        self._run.config.update(dict(params), allow_val_change=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs the metrics of one step."""
        self._run.log(dict(metrics), step=step)

    def log_artifact(self, path: Path, folder: str) -> None:  # noqa: ARG002
        """Copies a file to the run's files, without folders."""
        self._run.save(str(path), base_path=str(path.parent), policy="now")

    def close(self, status: Status) -> None:
        """Ends the run, with exit code 0 if it finished and 1 otherwise."""
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)
