"""Experiment trackers for a training's metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

Status = Literal["FINISHED", "FAILED", "KILLED"]


PROFILE_FOLDER = "profile"
"""Artifact folder for traces of torch.profiler."""


class Tracker(Protocol):
    """Records a run in MLflow, TensorBoard or Weights & Biases.

    An open tracker raises no error if its server fails: training is worth more than its record, and `reports/training.csv` has every
    metric. The tracker logs what it could not deliver.
    """

    name: str
    run: str
    """The id with which a later process continues this run."""
    is_new: bool
    """Whether this process created the run, so that it lacks the earlier steps of a resumed training."""

    def log_params(self, params: Mapping[str, str]) -> None:
        """Logs the settings of the run, by path (`train.learning_rate`)."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs the metrics of one step."""

    def log_artifact(self, path: Path, folder: str) -> None:
        """Stores a copy of a file."""

    def close(self, status: Status) -> None:
        """Delivers pending records and ends the run."""


class Trackers:
    """Several trackers as one."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = list(trackers)

    @property
    def is_new(self) -> bool:
        """Whether this process created any of the runs."""
        return any(tracker.is_new for tracker in self._trackers)

    @property
    def newly_begun(self) -> "Trackers":
        """The trackers with runs that this process created."""
        return Trackers([tracker for tracker in self._trackers if tracker.is_new])

    @property
    def runs(self) -> dict[str, str]:
        """Each tracker's run id, by tracker name."""
        return {tracker.name: tracker.run for tracker in self._trackers}

    def log_params(self, params: Mapping[str, str]) -> None:
        """Logs the settings of the run."""
        for tracker in self._trackers:
            tracker.log_params(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs the metrics of one step."""
        for tracker in self._trackers:
            tracker.log_metrics(metrics, step)

    def log_artifact(self, path: Path, folder: str) -> None:
        """Stores a copy of a file."""
        for tracker in self._trackers:
            tracker.log_artifact(path, folder)

    def close(self, status: Status) -> None:
        """Ends all runs."""
        for tracker in self._trackers:
            tracker.close(status)
