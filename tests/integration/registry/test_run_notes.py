"""What MLflow's pages show of a training: the experiment's kind and description, the run's name, note and datasets."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.registry.connection import connect
from reelnest.registry.run_notes import EVALUATION_HEADING, KIND_TAG, NOTE_TAG, TrackedData, evaluated_note, run_name
from reelnest.registry.tracking import open_trackers
from reelnest.settings import Model, Params, Tracking, Train
from tests.support import reports

EVALUATION = EvaluationReport.model_validate({name: value for name, value in reports.evaluation().items() if name != "schema_version"})
VERSION = "034d2c85070da4f6d8461e5bccbecd8d.dir"
DATA = TrackedData(VERSION, train_pairs=5216, validation_pairs=218, videos=1839)


@pytest.fixture
def params(empty_store: Path, tmp_path: Path) -> Params:
    """Settings with a new MLflow store."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Params(tracking=Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db"), train=Train(trackers=("mlflow",)))


def test_the_experiment_opens_on_training_runs_and_an_edited_description_stays(params: Params) -> None:
    client, experiment = MlflowClient(params.tracking.uri), connect(params)
    tags = client.get_experiment(experiment).tags
    assert tags[KIND_TAG] == "custom_model_development"
    assert "step 64 is Recall@1 at 64 dims" in tags[NOTE_TAG]
    client.set_experiment_tag(experiment, NOTE_TAG, "ours")
    client.delete_experiment_tag(experiment, KIND_TAG)  # as an earlier version made it
    connect(params)
    assert client.get_experiment(experiment).tags == {NOTE_TAG: "ours", KIND_TAG: "custom_model_development"}


def test_a_training_has_a_readable_name_a_note_and_its_data(params: Params, tmp_path: Path) -> None:
    trackers = open_trackers(params, tmp_path, "0123456789abcdef", {}, {}, DATA)
    trackers.close("FINISHED")
    run = MlflowClient(params.tracking.uri).get_run(trackers.runs["mlflow"])
    assert run.info.run_name == f"tiny, {params.train.epochs} epochs, data 034d2c85, 01234567"
    assert "5,216 pairs, 1,839 videos" in run.data.tags[NOTE_TAG]
    inputs = {given.dataset.name: (given.dataset.digest, given.tags[0].value) for given in run.inputs.dataset_inputs}
    assert inputs == {"train": ("034d2c85", "training"), "validation": ("034d2c85", "validation")}


def test_a_name_has_the_last_part_of_the_models_name() -> None:
    params = Params(model=Model(name_or_path="Qwen/Qwen2.5-VL-3B-Instruct", revision="0" * 40), train=Train(epochs=1))
    assert run_name(params, "0123456789abcdef", None) == "Qwen2.5-VL-3B-Instruct, 1 epoch, 01234567"


def test_a_new_evaluation_replaces_the_earlier_one_in_the_note() -> None:
    first = evaluated_note("What somebody wrote.", EVALUATION)
    assert evaluated_note(first, EVALUATION) == first
    assert first.startswith(f"What somebody wrote.\n\n{EVALUATION_HEADING}\n\n")
    for dim, result in EVALUATION.by_dim.items():
        assert f"| {dim} | {result.metrics['recall@1']:.3f} |" in first
