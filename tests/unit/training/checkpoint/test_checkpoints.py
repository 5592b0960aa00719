"""Checkpoints: atomic, and only of the same training."""

from pathlib import Path

import pytest
import torch
from torch import nn

from reelnest.errors import TrainingError
from reelnest.training.checkpoint.checkpoints import Checkpoints, load_trainable_state, trainable_state


def test_the_last_k_checkpoints_remain_and_the_newest_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "key")
    for step in (5, 10, 115):
        checkpoints.save(step, {"step": step, "value": torch.tensor(float(step))}, keep=2)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-00000010.pt", "step-00000115.pt"]
    state = checkpoints.load_last()
    assert state is not None
    assert state["step"] == 115


def test_a_broken_checkpoint_is_skipped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path, "key")
    checkpoints.save(1, {"step": 1}, keep=3)
    checkpoints.save(2, {"step": 2, "weights": torch.zeros(1000)}, keep=3)
    newest = checkpoints.folder / "step-00000002.pt"
    newest.write_bytes(newest.read_bytes()[:700])
    assert checkpoints.load_last() == {"step": 1}
    assert "step-00000002.pt" in caplog.text
    for content in (b"", b"no checkpoint"):
        caplog.clear()
        newest.write_bytes(content)
        assert checkpoints.load_last() == {"step": 1}
        assert caplog.messages == [f"checkpoint: {newest} cannot be read (not a checkpoint); using the previous one"]


def test_runs_of_trackers_that_cannot_be_read_are_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path, "key")
    assert checkpoints.read_runs() == {}
    checkpoints.write_runs({"mlflow": "1"})
    assert checkpoints.read_runs() == {"mlflow": "1"}
    path = checkpoints.folder / "runs.json"
    path.write_bytes(path.read_bytes()[:7])
    assert checkpoints.read_runs() == {}
    assert f"{path} cannot be read" in caplog.text
    assert "the trackers start new runs" in caplog.text


def test_a_sharded_step_counts_only_with_its_shard_which_is_removed_with_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "key")
    for step in (1, 2, 3):
        checkpoints.save_shard(step, {"weights": torch.full((3,), float(step))})
        checkpoints.save(step, {"step": step, "shards": 1}, keep=2)
    names = [f"step-0000000{step}.{end}" for step in (2, 3) for end in ("pt", "shard-0-of-1")]
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == names
    state = checkpoints.load_last()
    assert state is not None
    assert torch.equal(state["shard"]["weights"], torch.full((3,), 3.0))
    (checkpoints.folder / "step-00000003.shard-0-of-1").write_bytes(b"cut off")
    state = checkpoints.load_last()
    assert state is not None
    assert state["step"] == 2


def test_shards_of_another_number_of_processes_are_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "key")
    checkpoints.save(1, {"step": 1, "shards": 4}, keep=2)
    with pytest.raises(TrainingError, match=r"written by 4 processes of a sharded training, but 1 run now\. Set launch\.config"):
        checkpoints.load_last()


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "key")
    checkpoints.folder.mkdir()
    torch.save({"step": 1, "code": Path(tmp_path)}, checkpoints.folder / "step-00000001.pt")
    assert checkpoints.load_last() is None


def test_other_trainings_are_removed_only_when_they_are_finished(tmp_path: Path) -> None:
    for key in ("finished", "killed", "mine"):
        Checkpoints(tmp_path, key).save(1, {"step": 1}, keep=1)
    Checkpoints(tmp_path, "finished").finish()
    Checkpoints(tmp_path, "mine").finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "mine"]


def test_best_weights_hold_what_trains_and_fit_only_their_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    checkpoints = Checkpoints(tmp_path, "key")
    weights = trainable_state(model)
    assert sorted(weights) == ["1.bias", "1.weight"]
    checkpoints.save_best(weights, step=3)
    with torch.no_grad():
        expected = model[1].weight.clone()
        model[1].weight.zero_()
    checkpoints.load_best_into(model)
    assert torch.equal(model[1].weight, expected)
    with pytest.raises(TrainingError, match="parameters differ from those of the model"):
        checkpoints.load_best_into(nn.Linear(2, 2))
    checkpoints.best.write_bytes(b"cut off")
    with pytest.raises(TrainingError, match=r"best\.safetensors cannot be read"):
        checkpoints.load_best_into(model)


def test_a_state_is_a_copy(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    state = trainable_state(model)
    with torch.no_grad():
        model.weight.add_(1)
    assert not torch.equal(state["weight"], model.weight)
    load_trainable_state(model, state)
    assert torch.equal(state["weight"], model.weight)
