"""The trained model in the registry: its content hash and its MLflow run."""

import logging
from dataclasses import dataclass
from pathlib import Path

import mlflow

from reelnest.artifacts.candidate_run import CandidateRun
from reelnest.encoder.saved_settings import ABOUT_THE_MODEL
from reelnest.errors import RegistryError
from reelnest.records.content_hash import folder_hash
from reelnest.registry.connection import active_run
from reelnest.registry.known_versions import MODEL_HASH_TAG

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A saved model's folder. Two folders with the same hash are the same model."""

    folder: Path
    hash: str
    """Hash of all files except `ABOUT_THE_MODEL`."""
    run_id: str | None
    """The MLflow run of the training; None if tracking was off."""

    @classmethod
    def of(cls, folder: Path) -> "Candidate":
        """Reads and hashes the folder. Raises RegistryError if there is no model, ArtifactError for an invalid `run.json`."""
        if not folder.is_dir():
            raise RegistryError(f"{folder}: no such model. Run `reelnest train` first.")
        return cls(folder, folder_hash(folder, without=ABOUT_THE_MODEL), CandidateRun.read(folder).run_id)


def candidate_run(candidate: Candidate, experiment_id: str) -> str:
    """Returns the id of the candidate's run in the connected MLflow. Creates a run if there is none.

    There is none if DVC restored the model from a cache that a checkout with another MLflow filled. The new run is tagged with the model's
    hash, so that the next stage finds it.
    """
    client = mlflow.MlflowClient()
    if candidate.run_id is not None and active_run(candidate.run_id) is not None:
        return candidate.run_id
    runs = client.search_runs([experiment_id], f"tags.`{MODEL_HASH_TAG}` = '{candidate.hash}'", max_results=1)
    if runs:
        return str(runs[0].info.run_id)
    run = client.create_run(experiment_id, run_name=f"model-{candidate.hash[:8]}", tags={MODEL_HASH_TAG: candidate.hash})
    client.set_terminated(run.info.run_id)
    log.warning(
        "MLflow has no run %s: the model was trained with another MLflow, or without one. Its results go to the new run %s.",
        candidate.run_id or "for this model",
        run.info.run_id,
    )
    return str(run.info.run_id)
