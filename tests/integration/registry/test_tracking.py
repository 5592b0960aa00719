"""Trackers: what they log, and what happens if their server is wrong or unreachable."""

import shutil
import sqlite3
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from reelnest.atomic_files import write_lines
from reelnest.errors import ConfigError, RegistryError
from reelnest.registry import mlflow_tracker
from reelnest.registry.tracking import flat_settings, open_trackers
from reelnest.settings import Params, Tracking, Train


@pytest.fixture
def params(empty_store: Path, tmp_path: Path) -> Params:
    """Settings with a new MLflow store."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Params(tracking=Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db"), train=Train(trackers=("mlflow",)))


def steps(client: MlflowClient, run: str) -> list[int]:
    return [metric.step for metric in client.get_metric_history(run, "train/loss")]


def test_settings_are_flattened_by_path() -> None:
    assert flat_settings({"model": {"lora": {"r": 4}, "dims": [8, 16]}, "seed": None}) == {
        "model.lora.r": "4",
        "model.dims": "[8, 16]",
        "seed": "None",
    }


def test_a_password_in_the_files_address_is_not_logged(tmp_path: Path) -> None:
    params = Params(tracking=Tracking(uri="http://me:secret@tracking.example:5000"), train=Train(trackers=("tensorboard",)))
    trackers = open_trackers(params, tmp_path, "key", {}, {})
    trackers.close("FINISHED")
    (events,) = (tmp_path / "tensorboard" / "key").iterdir()
    assert b"http://tracking.example:5000" in events.read_bytes()
    assert b"secret" not in events.read_bytes()


def test_a_resumed_training_continues_its_run_without_logging_its_settings_again(params: Params, tmp_path: Path) -> None:
    first = open_trackers(params, tmp_path, "key", {}, {"reelnest.device": "cpu"})
    assert first.is_new
    first.log_metrics({"train/loss": 1.0}, 1)
    first.close("KILLED")
    second = open_trackers(params, tmp_path, "key", first.runs, {})
    assert second.runs == first.runs
    assert not second.is_new
    client = MlflowClient(params.tracking.uri)
    assert client.get_run(first.runs["mlflow"]).info.status == "RUNNING"
    second.log_metrics({"train/loss": 0.5}, 2)
    second.close("FINISHED")
    run = client.get_run(first.runs["mlflow"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["reelnest.device"] == "cpu"
    assert run.data.params["train.batch_size"] == str(params.train.batch_size)
    assert steps(client, run.info.run_id) == [1, 2]


def test_a_missing_run_is_replaced_by_a_new_one(params: Params, tmp_path: Path) -> None:
    trackers = open_trackers(params, tmp_path, "key", {"mlflow": "0123456789abcdef"}, {})
    assert trackers.is_new
    assert trackers.runs["mlflow"] != "0123456789abcdef"
    trackers.close("FAILED")
    assert MlflowClient(params.tracking.uri).get_run(trackers.runs["mlflow"]).info.status == "FAILED"


def test_metrics_wait_while_mlflow_is_away(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_tracker, "SECONDS_BETWEEN_TRIES", 0.0)
    trackers = open_trackers(params, tmp_path, "key", {}, {})
    trackers.log_metrics({"train/loss": 1.0}, 1)
    database = sqlite3.connect(tmp_path / "mlflow.db")
    # A database without its tables fails like an unreachable one.
    database.execute("ALTER TABLE runs RENAME TO runs_away")
    trackers.log_metrics({"train/loss": 2.0}, 2)
    trackers.log_metrics({"train/loss": 3.0}, 3)
    (tmp_path / "file.txt").write_text("content")
    trackers.log_artifact(tmp_path / "file.txt", "reports")
    assert caplog.text.count("training continues, and they are sent later") == 1
    database.execute("ALTER TABLE runs_away RENAME TO runs")
    database.close()
    trackers.log_metrics({"train/loss": 4.0}, 4)
    assert "MLflow is back" in caplog.text
    trackers.close("FINISHED")
    client = MlflowClient(params.tracking.uri)
    assert steps(client, trackers.runs["mlflow"]) == [1, 2, 3, 4]
    assert [file.path for file in client.list_artifacts(trackers.runs["mlflow"], "reports")] == ["reports/file.txt"]
    assert "could not be delivered" not in caplog.text


def test_undelivered_metrics_are_logged_at_the_end(params: Params, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trackers = open_trackers(params, tmp_path, "key", {}, {})
    database = sqlite3.connect(tmp_path / "mlflow.db")
    database.execute("ALTER TABLE runs RENAME TO runs_away")
    database.close()
    trackers.log_metrics({"train/loss": 1.0, "train/loss_8": 1.0}, 1)
    trackers.close("FINISHED")
    assert "2 metrics, 0 files and its final status (FINISHED) could not be delivered; reports/training.csv has every step" in caplog.text


def test_a_wrong_address_fails_within_seconds(tmp_path: Path) -> None:
    params = Params(tracking=Tracking(uri="http://127.0.0.1:9"), train=Train(trackers=("mlflow",)))
    started = time.monotonic()
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9.*tracking\.uri"):
        open_trackers(params, tmp_path, "key", {}, {})
    # This does not measure speed: MLflow's own retries would take minutes.
    assert time.monotonic() - started < 60


def test_a_file_too_large_for_a_server_is_not_uploaded(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_tracker, "LARGEST_ARTIFACT", 3)
    (tmp_path / "best.safetensors").write_bytes(b"four")
    trackers = open_trackers(params, tmp_path, "key", {}, {})
    trackers.log_artifact(tmp_path / "best.safetensors", "checkpoints")
    trackers.close("FINISHED")
    assert "best.safetensors" in caplog.text
    assert MlflowClient(params.tracking.uri).list_artifacts(trackers.runs["mlflow"]) == []


def test_wandb_records_offline_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    trackers = open_trackers(Params(train=Train(trackers=("wandb",))), tmp_path / "work", "key", {}, {"reelnest.device": "cpu"})
    trackers.log_metrics({"train/loss": 1.0}, 1)
    write_lines(tmp_path / "training.csv", ["of this training"])
    trackers.log_artifact(tmp_path / "training.csv", "reports")
    trackers.close("FINISHED")
    write_lines(tmp_path / "training.csv", ["of the next training"])
    [run] = (tmp_path / "work" / "wandb").glob("offline-run-*")
    assert (run / "files" / "training.csv").read_text() == "of this training\n"
    [record] = run.glob("*.wandb")
    assert trackers.runs["wandb"] in record.name
    for _ in range(200):  # a process of wandb writes the file
        if b"train/loss" in record.read_bytes():
            break
        time.sleep(0.05)
    assert b"train/loss" in record.read_bytes()


def test_a_missing_wandb_fails_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"train\.trackers has wandb, which is not installed\. Run: pip install"):
        open_trackers(Params(train=Train(trackers=("wandb",))), tmp_path, "key", {}, {})


@pytest.mark.parametrize("mode", ["online", "sometimes"])
def test_a_wandb_that_starts_no_run_fails_before_training_and_ends_the_other_runs(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", mode)
    for variable in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # without a login
    both = params.model_copy(update={"train": Train(trackers=("mlflow", "wandb"))})
    with pytest.raises(ConfigError, match=rf"train\.trackers has wandb, which starts no run with WANDB_MODE={mode}: .*`wandb login`"):
        open_trackers(both, tmp_path / "work", "key", {}, {})
    client = MlflowClient(params.tracking.uri)
    [run] = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.status == "FAILED"
