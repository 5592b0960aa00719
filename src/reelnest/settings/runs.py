"""The sections `launch`, `tracking` and `runs`: how a run starts, and where it is recorded."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from reelnest.settings.section import Section


class Tracking(Section):
    """MLflow, which stores runs, metrics, checkpoints and models. No DVC stage depends on it."""

    uri: str = "sqlite:///mlflow.db"
    """The environment variable MLFLOW_TRACKING_URI overrides this."""
    experiment: str = "reelnest"


class Runs(Section):
    """Remotes to which the runs of deployments are pushed."""

    push: str | None = None
    """The git remote for each completed run's ref, such as `origin`; null: nothing is pushed."""
    push_outputs: str | None = None
    """The DVC remote for the outputs of pushed runs; null: DVC's default remote, if any."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.push_outputs is not None and self.push is None:
            raise ValueError("push_outputs needs push, because outputs are found by the run's ref. Set runs.push, such as origin")
        return self


class Launch(Section):
    """How training and embedding processes are started."""

    config: str = "cpu-2"
    """A file of `configs/accelerate/`, without its suffix."""
    grace_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Time for processes to finish a step and save after a stop request, before they are killed."""
