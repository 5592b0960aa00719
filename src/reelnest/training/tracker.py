"""Where a training's figures go besides the reports."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

Status = Literal["FINISHED", "FAILED", "KILLED"]


PROFILE_FOLDER = "profile"
"""Of artifacts that are traces by torch.profiler."""


class Tracker(Protocol):
    """A place that records a run: MLflow, TensorBoard, Weights & Biases.

    Once a tracker is open, none of these raises for a place that went away: training is worth more than its record, and every figure is in
    `reports/training.csv`. A tracker says in the log what it could not deliver.
    """

    name: str
    run: str
    """What a later process passes to go on with this run."""
    is_new: bool
    """Whether the run began with this process, and so lacks what a resumed training did before."""

    def log_params(self, params: Mapping[str, str]) -> None:
        """The settings of the run, by path (`train.learning_rate`)."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Figures of one step."""

    def log_artifact(self, path: Path, folder: str) -> None:
        """Keeps a copy of a file."""

    def close(self, status: Status) -> None:
        """Delivers what is left and ends the run."""


class Trackers:
    """Several trackers, as one."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = list(trackers)

    @property
    def is_new(self) -> bool:
        """Whether any of them began with this process."""
        return any(tracker.is_new for tracker in self._trackers)

    @property
    def newly_begun(self) -> "Trackers":
        """Those whose run began with this process."""
        return Trackers([tracker for tracker in self._trackers if tracker.is_new])

    @property
    def runs(self) -> dict[str, str]:
        """Each tracker's run, by its name."""
        return {tracker.name: tracker.run for tracker in self._trackers}

    def log_params(self, params: Mapping[str, str]) -> None:
        """The settings of the run."""
        for tracker in self._trackers:
            tracker.log_params(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Figures of one step."""
        for tracker in self._trackers:
            tracker.log_metrics(metrics, step)

    def log_artifact(self, path: Path, folder: str) -> None:
        """Keeps a copy of a file."""
        for tracker in self._trackers:
            tracker.log_artifact(path, folder)

    def close(self, status: Status) -> None:
        """Ends all runs."""
        for tracker in self._trackers:
            tracker.close(status)
