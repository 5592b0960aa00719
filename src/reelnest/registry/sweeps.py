"""A sweep in MLflow: a run with the search space, which is the parent of the trainings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities import Param
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from reelnest.errors import RegistryError
from reelnest.registry.connection import connect
from reelnest.registry.run_notes import NOTE_TAG
from reelnest.settings import Params
from reelnest.training.tracker import Status

SWEEP_TAG = "reelnest.sweep"
BEST_TAG = "reelnest.best_of_sweep"
"""Tag of a training's run: the run of the sweep in which it is the best."""
TRIALS_FILE = "trials.json"
NOTE = (
    "The runs below this one are its trials. They are compared on the validation split; the best one has the tag"
    f" `{BEST_TAG}`. `{TRIALS_FILE}` under Artifacts lists the settings and the result of each."
)


@dataclass(frozen=True)
class SweepRun:
    """A sweep's run. Errors of MLflow become RegistryError."""

    client: mlflow.MlflowClient
    experiment: str
    id: str

    @classmethod
    def open(cls, params: Params, key: str, about: Mapping[str, Any]) -> "SweepRun":
        """Opens the run of the sweep with this key, or creates one with `about` as its parameters."""
        experiment = connect(params)
        client = mlflow.MlflowClient(mlflow.get_tracking_uri())
        try:
            runs = client.search_runs([experiment], f"tags.`{SWEEP_TAG}` = '{key}'", max_results=1)
            if runs:
                client.update_run(runs[0].info.run_id, status="RUNNING")
                return cls(client, experiment, runs[0].info.run_id)
            name = f"sweep of {', '.join(about.get('space', {}))}, {key[:8]}"
            run = client.create_run(experiment, run_name=name, tags={SWEEP_TAG: key, NOTE_TAG: NOTE}).info.run_id
            client.log_batch(run, params=[Param(name, json.dumps(value)[:MAX_PARAM_VAL_LENGTH]) for name, value in about.items()])
        except MlflowException as error:
            raise RegistryError(f"MLflow at tracking.uri: the sweep's run could not be created: {error.message}") from error
        return cls(client, experiment, run)

    def show(self, trials: Sequence[Mapping[str, Any]], best: str | None) -> None:
        """Logs the trials, and tags the run of the best training."""
        try:
            self.client.log_dict(self.id, {"trials": list(trials)}, TRIALS_FILE)
            marked = {run.info.run_id for run in self.client.search_runs([self.experiment], f"tags.`{BEST_TAG}` = '{self.id}'")}
            for run in marked - {best}:
                self.client.delete_tag(run, BEST_TAG)
            if best is not None and best not in marked:
                self.client.set_tag(best, BEST_TAG, self.id)
        except MlflowException as error:
            raise RegistryError(f"MLflow at tracking.uri: the sweep's trials could not be logged: {error.message}") from error

    def close(self, status: Status) -> None:
        """Ends the run."""
        try:
            self.client.set_terminated(self.id, status)
        except MlflowException as error:
            raise RegistryError(f"MLflow at tracking.uri: the sweep's run could not be ended: {error.message}") from error
