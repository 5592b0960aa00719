"""Shows the trials of a sweep: a table among its flow run's artifacts, and their parent run in MLflow."""

import json
from typing import Any

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.settings import PREFECT_UI_URL
from prefect.utilities.urls import url_for

from reelnest.errors import RegistryError
from reelnest.registry.sweeps import SweepRun
from reelnest.training.tracker import Status
from tasks.sweeps.trials import Trial, Trials


class SweepPages:
    """The table and MLflow run of a sweep. Errors are logged, since the trials are also in their file."""

    def __init__(self, trials: Trials, metric: str, mlflow_run: SweepRun) -> None:
        self._trials, self._metric, self._mlflow_run = trials, metric, mlflow_run

    def show(self) -> None:
        """Publishes the current trials as the artifact `sweep`, one row for each, and in MLflow; the best is marked in both."""
        best = self._trials.best()
        try:
            create_table_artifact(
                key="sweep",
                table=[_row(trial, self._metric, is_best=trial is best) for trial in self._trials.trials],
                description="The trials of the sweep, by the metric on the validation split.",
            )
            self._mlflow_run.show(self._trials.records(), best.mlflow_run if best else None)
        except (RegistryError, httpx.HTTPError) as error:
            get_run_logger().warning("the sweep's trials were not shown: %s", error)

    def close(self, status: Status) -> None:
        """Publishes the final state and ends the MLflow run."""
        self.show()
        try:
            self._mlflow_run.close(status)
        except RegistryError as error:
            get_run_logger().warning("%s", error)


def _row(trial: Trial, metric: str, *, is_best: bool) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": "best" if is_best else trial.state,
        metric: "" if trial.value is None else round(trial.value, 4),
        **{key: json.dumps(value) for key, value in trial.settings.items()},
        "run": _link(trial.run),
        "why": trial.why,
    }


def _link(run: str | None) -> str:
    """Returns a link to the run's page; its id if the server has no UI."""
    page = url_for("flow-run", obj_id=run) if run and PREFECT_UI_URL.value() else None
    return f"[{run}]({page})" if page else run or ""
