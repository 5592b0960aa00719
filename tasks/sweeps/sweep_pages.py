"""What a sweep shows of its trials: a table among its flow run's artifacts, and a run in MLflow above theirs."""

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
    """A page that cannot be made is logged: the trials themselves are in their file."""

    def __init__(self, trials: Trials, metric: str, mlflow_run: SweepRun) -> None:
        self._trials, self._metric, self._mlflow_run = trials, metric, mlflow_run

    def show(self) -> None:
        """The trials as they stand: the artifact `sweep` with one row a trial, the same in MLflow, the best marked in both."""
        best = self._trials.best()
        try:
            create_table_artifact(
                key="sweep",
                table=[_row(trial, self._metric, is_best=trial is best) for trial in self._trials.found],
                description="The trials of the sweep, by the metric on the validation split.",
            )
            self._mlflow_run.show(self._trials.records(), best.mlflow_run if best else None)
        except (RegistryError, httpx.HTTPError) as error:
            get_run_logger().warning("the sweep's trials were not shown: %s", error)

    def close(self, status: Status) -> None:
        """Shows the last state, and ends MLflow's run."""
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
    """The address of the run's page; its id where the server has no pages."""
    page = url_for("flow-run", obj_id=run) if run and PREFECT_UI_URL.value() else None
    return f"[{run}]({page})" if page else run or ""
