"""The trained model as the registry knows it: its content hash, and the MLflow run that it belongs to."""

import logging
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from reelnest.artifacts.candidate_run import CandidateRun
from reelnest.encoder.manifest import ABOUT_THE_MODEL
from reelnest.errors import RegistryError
from reelnest.records.content_hash import folder_hash

MODEL_HASH_TAG = "reelnest.model_hash"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A saved model's folder. Two folders with one hash are one model, whoever trained it and when."""

    folder: Path
    hash: str
    """Of all files but `ABOUT_THE_MODEL`."""
    run_id: str | None
    """The run that training recorded; None if it was told to record none."""

    @classmethod
    def of(cls, folder: Path) -> "Candidate":
        """Reads and hashes the folder. Raises RegistryError where there is no model, ArtifactError for a broken `run.json`."""
        if not folder.is_dir():
            raise RegistryError(f"{folder}: there is no model. Run `reelnest train` first.")
        return cls(folder, folder_hash(folder, without=ABOUT_THE_MODEL), CandidateRun.read(folder).run_id)


def candidate_run(candidate: Candidate, experiment_id: str) -> str:
    """The id of the candidate's run in the MLflow that this process is connected to, made if it is not there.

    It is not there where DVC brought the model back from a cache that another checkout filled, under another MLflow. The run that is then
    made carries the model's hash, by which the next stage finds it.
    """
    client = mlflow.MlflowClient()
    if candidate.run_id is not None:
        try:
            if client.get_run(candidate.run_id).info.lifecycle_stage == "active":
                return candidate.run_id
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    found = client.search_runs([experiment_id], f"tags.`{MODEL_HASH_TAG}` = '{candidate.hash}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(experiment_id, run_name=f"model-{candidate.hash[:8]}", tags={MODEL_HASH_TAG: candidate.hash})
    client.set_terminated(run.info.run_id)
    log.warning(
        "MLflow has no run %s: the model was trained under another MLflow, or without one. What follows goes to the new run %s.",
        candidate.run_id or "for this model",
        run.info.run_id,
    )
    return str(run.info.run_id)
