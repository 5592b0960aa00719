"""The sections `launch`, `tracking` and `runs`: how a run is started, and where it is recorded."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from reelnest.settings.section import Section


class Tracking(Section):
    """MLflow: where runs, metrics, checkpoints and models are kept. No DVC stage depends on it."""

    uri: str = "sqlite:///mlflow.db"
    """The environment's MLFLOW_TRACKING_URI goes before this."""
    experiment: str = "reelnest"


class Runs(Section):
    """Where the runs of deployments go, beside this repository."""

    push: str | None = None
    """The git remote that gets each completed run's ref, such as `origin`; null: nothing leaves this machine."""
    push_outputs: str | None = None
    """The DVC remote that gets the outputs of pushed runs; null: DVC's default remote, if there is one."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.push_outputs is not None and self.push is None:
            raise ValueError("push_outputs needs push: outputs without the run's ref have no name. Set runs.push, such as origin")
        return self


class Launch(Section):
    """How training and embedding processes are started."""

    config: str = "cpu-2"
    """A file of `configs/accelerate/`, without its ending."""
    grace_seconds: Annotated[float, Field(gt=0)] = 120.0
    """How long processes that are told to stop may take to finish a step and save, before they are killed."""
