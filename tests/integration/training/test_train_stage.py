"""The training stage in one process: in this process unless it is killed."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import reelnest
from reelnest.encoder.encoder import Encoder
from reelnest.errors import ConfigError, TrainingError
from reelnest.evaluation import split_evaluation
from reelnest.training import loop
from tests.integration.training.training_workspace import rows, run, training_report, write_workspace


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training."""
    root = write_workspace(tmp_path_factory.mktemp("trained") / "checkout", prepared)
    run(root)
    return root


def test_a_training_leaves_a_model_and_its_reports(trained: Path) -> None:
    report: dict[str, Any] = training_report(trained)
    assert report["steps"] == len(rows(trained)) == 4 * (report["pairs"] // 8)
    assert set(report["loss_by_dim"]) == {"8", "32"}
    assert report["loss"] < float(rows(trained)[1]["loss"])
    assert [entry["epoch"] for entry in report["validation"]] == [1, 2, 3, 4]
    assert report["best"]["value"] == max(entry["metrics"]["32"]["ndcg@10"] for entry in report["validation"])
    model = reelnest.load(trained / "models" / "candidate")
    assert model.encode_texts(["a red number 1"], dim=8).shape == (1, 8)
    assert json.loads((trained / "models" / "candidate" / "run.json").read_text())["run_id"] is None
    progress = json.loads((trained / "work" / "progress.json").read_text())
    assert (progress["step"], progress["steps"], progress["epoch"], progress["epochs"]) == (report["steps"], report["steps"], 4, 4)


def test_the_same_seed_gives_the_same_losses_to_the_last_bit(trained: Path, prepared: Path, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "checkout", prepared)
    run(root)
    assert rows(root) == rows(trained)
    assert training_report(root) == training_report(trained)
    weights = [path / "models" / "candidate" / "model.safetensors" for path in (root, trained)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_another_seed_gives_other_losses(trained: Path, prepared: Path, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "checkout", prepared, seed=1, epochs=1)
    run(root)
    assert rows(root)[0]["loss"] != rows(trained)[0]["loss"]


def test_the_settings_of_the_loss_are_those_that_train(trained: Path, prepared: Path, tmp_path: Path) -> None:
    others: dict[str, Any] = {"intra_modal_negatives": True, "false_negative_margin": 0.0, "temperature": 0.1}
    root = write_workspace(tmp_path / "checkout", prepared, loss={"dim_weights": "learnt", "learn_temperature": True, **others}, epochs=2)
    run(root)
    assert rows(root)[0]["loss_8"] != rows(trained)[0]["loss_8"]
    assert float(rows(root)[0]["temperature"]) == pytest.approx(0.1)
    assert rows(root)[-1]["temperature"] != rows(root)[0]["temperature"]
    [weights] = root.glob("work/checkpoints/*/best.safetensors")
    assert float(load_file(weights)["objective.dim_weights.log_variances"].abs().min()) > 0


def test_a_finished_training_gives_its_model_again_without_a_step(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "checkout"
    shutil.copytree(trained, root, symlinks=True)
    for output in ("models", "reports"):
        shutil.rmtree(root / output)
    monkeypatch.setattr(loop.Training, "take_step", None)
    run(root)
    assert rows(root) == rows(trained)
    assert training_report(root) == training_report(trained)
    name = Path("models") / "candidate" / "model.safetensors"
    assert (root / name).read_bytes() == (trained / name).read_bytes()


def start(root: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "reelnest.launch.rank", "reelnest.stages.train"]
    return subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(root: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if list(root.glob("work/checkpoints/*/step-*.pt")):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("no checkpoint was written")


# Dropout, so that random numbers matter; long enough to be hit.
LONG: dict[str, Any] = {
    "model": {"lora": {"r": 4, "dropout": 0.2}},
    "loss": {"learn_temperature": True, "dim_weights": "learnt"},
    "epochs": 8,
    "accumulation_steps": 2,
}


@pytest.fixture(scope="module")
def unbroken(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_workspace(tmp_path_factory.mktemp("unbroken") / "checkout", prepared, ema_decay=0.9, **LONG)
    run(root)
    return root


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(
    ending: signal.Signals, unbroken: Path, prepared: Path, empty_store: Path, tmp_path: Path
) -> None:
    trackers = ["mlflow", "tensorboard"] if ending == signal.SIGKILL else []  # which do not change the weights
    stopped = write_workspace(tmp_path / "stopped", prepared, trackers=trackers, ema_decay=0.9, **LONG)
    shutil.copy(empty_store, stopped / "mlflow.db")
    process = start(stopped)
    wait_for_checkpoint(stopped, process)
    process.send_signal(ending)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == (75 if ending == signal.SIGTERM else -signal.SIGKILL), stderr
    assert not (stopped / "models").exists()
    assert not (stopped / "reports").exists()
    if ending == signal.SIGTERM:
        assert "stopped by SIGTERM after step" in stderr
    before = sorted(path.name for path in stopped.glob("work/checkpoints/*/step-*.pt"))
    run(stopped)
    assert rows(stopped) == rows(unbroken)
    assert training_report(stopped) == training_report(unbroken)
    assert before[-1] < f"step-{training_report(stopped)['steps']:08}.pt", "the training had ended before it was stopped"
    if trackers:
        check_tracked(stopped)


def check_tracked(root: Path) -> None:
    """One MLflow run, and TensorBoard's events, have all steps of both processes of a resumed training."""
    noted = json.loads((root / "models" / "candidate" / "run.json").read_text())
    client = MlflowClient(noted["tracking_uri"])
    [run] = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.run_id == noted["run_id"]
    assert run.info.status == "FINISHED"
    assert run.data.params["train.accumulation_steps"] == "2"
    assert run.data.params["model.lora.r"] == "4"
    losses = {int(row["step"]): float(row["loss"]) for row in rows(root)}
    logged = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "train/loss")}
    assert max(logged) == max(losses)
    assert logged[3] == pytest.approx(sum(losses[step] for step in (1, 2, 3)) / 3)
    report: Any = training_report(root)
    last = report["validation"][-1]["metrics"]["32"]["recall@10"]
    assert run.data.metrics["validation/recall_at_10/dim_32"] == last
    expected = {
        "train/loss_8",
        "train/learning_rate",
        "train/gradient_norm",
        "train/temperature",
        "train/weight_8",
        "train/pairs_per_second",
        "memory/rss_mb",
    }
    assert expected <= set(run.data.metrics)
    assert [file.path for file in client.list_artifacts(run.info.run_id, "checkpoints")] == ["checkpoints/best.safetensors"]
    [folder] = (root / "work" / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert max(event.step for event in events.Scalars("train/loss")) == max(losses)


def test_training_stops_early_keeps_the_best_average_and_does_not_go_on_when_started_again(
    trained: Path, prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The weights move too little to change a ranking, so all evaluations are equal.
    still: dict[str, Any] = {"learning_rate": 1e-9, "patience": 2, "ema_decay": 0.5, "best_metric": "median_rank", "best_dim": 8}
    root = write_workspace(tmp_path / "checkout", prepared, epochs=9, **still)
    with caplog.at_level(logging.INFO, logger="reelnest"):
        run(root)
    report: dict[str, Any] = training_report(root)
    assert [entry["epoch"] for entry in report["validation"]] == [1, 2, 3]
    assert report["stopped_early"]
    assert report["steps"] == len(rows(root)) == 3 * (report["pairs"] // 8)
    assert (report["best"]["metric"], report["best"]["dim"]) == ("median_rank", 8)
    assert report["best"]["value"] == report["validation"][0]["metrics"]["8"]["median_rank"]
    assert "no improvement in 2 evaluations (train.patience)" in caplog.text
    assert not training_report(trained)["stopped_early"]
    run(root)
    assert training_report(root) == report
    [last] = [torch.load(path, weights_only=True) for path in root.glob(f"work/checkpoints/*/step-{report['steps']:08}.pt")]
    best = load_file(next(root.glob("work/checkpoints/*/best.safetensors")))
    assert best.keys() == last["ema"]["averages"].keys()
    assert all(torch.equal(best[name], average) for name, average in last["ema"]["averages"].items())
    assert not all(torch.equal(best[name], weight) for name, weight in last["weights"].items())


def test_bf16_and_checkpointed_activations_train(prepared: Path, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "checkout", prepared, mixed_precision="bf16", gradient_checkpointing=True, epochs=2)
    run(root)
    assert float(rows(root)[-1]["loss"]) < 10


def test_fp16_without_a_gpu_is_refused(prepared: Path, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "checkout", prepared, mixed_precision="fp16")
    with pytest.raises(ConfigError, match=r"params\.yaml: train\.mixed_precision: fp16 needs a GPU.*bf16 or no"):
        run(root)


def test_a_launch_for_gpus_without_a_gpu_is_refused(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_workspace(tmp_path / "checkout", prepared, launch="gpu-1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"params\.yaml: launch\.config: gpu-1 needs a GPU.*launch\.config: cpu-1"):
        run(root)


def test_the_precision_of_the_training_is_that_of_its_evaluations(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype | None] = []
    embed = split_evaluation.embed

    def recorded(encoder: Encoder, *rest: Any) -> torch.Tensor:
        seen.append(encoder.autocast_dtype)
        return embed(encoder, *rest)

    monkeypatch.setattr(split_evaluation, "embed", recorded)
    run(write_workspace(tmp_path / "checkout", prepared, mixed_precision="bf16", epochs=1))
    assert seen == [torch.bfloat16]


def test_another_number_of_processes_than_configured_is_refused(prepared: Path, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "checkout", prepared)
    (root / "params.yaml").write_text((root / "params.yaml").read_text().replace("cpu-1", "cpu-2"))
    with pytest.raises(TrainingError, match=r"1 processes work together; launch\.config 'cpu-2' expects 2"):
        run(root)


def test_a_loss_that_is_no_number_stops_training_and_leaves_no_model(prepared: Path, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "checkout", prepared, learning_rate=1e30, max_gradient_norm=None, warmup_fraction=0.0)
    with pytest.raises(TrainingError, match=r"the loss of step \d+ \(epoch 1\) is nan"):
        run(root)
    assert not (root / "models").exists()
    assert not list(root.glob("work/checkpoints/*/step-*.pt"))


def test_fewer_pairs_than_a_batch_are_one_batch_with_a_log_line(prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_workspace(tmp_path / "checkout", prepared, batch_size=64, epochs=2)
    with caplog.at_level(logging.INFO, logger="reelnest"):
        run(root)
    report: dict[str, Any] = training_report(root)
    assert report["steps"] == 2
    assert report["batch_size"] == report["pairs"]
    assert "fewer than train.batch_size (64)" in caplog.text
