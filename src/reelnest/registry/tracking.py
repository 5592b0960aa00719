"""Opens the trackers MLflow, TensorBoard and Weights & Biases. They implement `reelnest.training.tracker.Tracker`.

Each is imported when it is opened, so a training runs without those that are not installed.
"""

import logging
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reelnest.addresses import without_credentials
from reelnest.atomic_files import atomic_write
from reelnest.errors import ConfigError
from reelnest.registry.run_notes import TrackedData, run_name
from reelnest.settings import Params, wandb_mode
from reelnest.training.tracker import PROFILE_FOLDER, Status, Tracker, Trackers

TITLES = {"mlflow": "MLflow", "tensorboard": "TensorBoard"}

log = logging.getLogger(__name__)


def open_trackers(
    params: Params, work: Path, key: str, runs: Mapping[str, str], tags: Mapping[str, str], data: TrackedData | None = None
) -> Trackers:
    """Opens the trackers of `train.trackers`. They continue the `runs` (by tracker name) of an earlier process if these still exist.

    `key` identifies this training. `data` is for the names and notes of new runs. If MLflow or TensorBoard is not installed, a warning says
    so, and the training runs without it.

    Raises RegistryError if MLflow cannot be reached, ConfigError if wandb is not installed or does not start.
    The runs of the other trackers then end.
    """
    opened: list[Tracker] = []
    try:
        for name in params.train.trackers:
            if name != "wandb" and find_spec(name) is None:  # each has the name of its package
                log.warning("training: %s is not installed, so it does not record this training; reports/training.csv does", TITLES[name])
            elif name == "mlflow":
                from reelnest.registry.mlflow_tracker import MlflowTracker

                opened.append(MlflowTracker(params, key, runs.get(name), tags, data))
            elif name == "tensorboard":
                opened.append(TensorBoardTracker(work / "tensorboard" / key, runs.get(name)))
            else:
                opened.append(WandbTracker(params, work, key, runs.get(name), tags, data))
    except BaseException:
        Trackers(opened).close("FAILED")
        raise
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


class TensorBoardTracker:
    """Event files in a folder. A resumed run adds to them."""

    name = "tensorboard"

    def __init__(self, folder: Path, run: str | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

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
        try:
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
        except (wandb.Error, ValueError) as error:  # a ValueError for an unknown mode
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"params.yaml: train.trackers has wandb, which starts no run with WANDB_MODE={wandb_mode()}: {reason} Log in with"
                " `wandb login`, unset WANDB_MODE to record offline, or remove wandb."
            ) from error
        self.run: str = self._run.id

    def log_params(self, params: Mapping[str, str]) -> None:
        """Logs the settings as the run's config."""
        self._run.config.update(dict(params), allow_val_change=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs the metrics of one step."""
        self._run.log(dict(metrics), step=step)

    def log_artifact(self, path: Path, folder: str) -> None:  # noqa: ARG002 (W&B has no folders)
        """Copies a file to the run's files, without folders."""
        # wandb makes a symbolic link, and the next training replaces the file before `wandb sync` reads it. A hard link keeps this one.
        copy = Path(self._run.dir) / path.name
        copy.unlink(missing_ok=True)
        try:
            copy.hardlink_to(path)
        except OSError:  # another file system
            shutil.copyfile(path, copy)
        self._run.save(str(copy), base_path=str(copy.parent), policy="now")

    def close(self, status: Status) -> None:
        """Ends the run, with exit code 0 if it finished and 1 otherwise."""
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)
