"""Checkpoints between evaluations (`train.checkpoint_every_minutes`), with a clock that advances by a minute per step."""

import shutil
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import mlflow
import pytest

from reelnest.training import loop
from reelnest.training.checkpoint.timer import CheckpointTimer
from reelnest.training.checkpoint.train_state import TrainState
from reelnest.training.loop import Training
from reelnest.training.step import TrainingStep
from tests.integration.training.training_workspace import rows, run, training_report, write_workspace

# 6 steps an epoch, an evaluation every second epoch: after steps 12 and 18.
SETTINGS: dict[str, Any] = {"epochs": 3, "evaluate_every_epochs": 2, "keep_checkpoints": 99}
EVERYTHING: dict[str, Any] = {
    "model": {"lora": {"r": 4, "dropout": 0.2}},
    "loss": {"learn_temperature": True, "dim_weights": "random"},
    "mining": {"negatives_per_pair": 1, "every_steps": 4},
    "micro_batch_size": 2,
    "ema_decay": 0.9,
}


class Killed(BaseException):
    """Stops a training as a crash would."""


@pytest.fixture
def _a_minute_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is the number of this process's optimizer steps."""
    taken = [0]
    step = TrainingStep.__call__

    def counted(self: TrainingStep, batches: Any, state: TrainState) -> Any:
        taken[0] += 1
        return step(self, batches, state)

    monkeypatch.setattr(TrainingStep, "__call__", counted)
    monkeypatch.setattr(loop, "CheckpointTimer", partial(CheckpointTimer, clock=lambda: 60.0 * taken[0]))


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the process crash before this step."""
    numbers, take = count(1), TrainingStep.__call__

    def killed(self: TrainingStep, batches: Any, state: TrainState) -> Any:
        if next(numbers) == step:
            raise Killed
        return take(self, batches, state)

    monkeypatch.setattr(TrainingStep, "__call__", killed)


def saved_steps(root: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in root.glob("work/checkpoints/*/step-*.pt"))


@pytest.mark.usefixtures("_a_minute_a_step")
@pytest.mark.parametrize(
    ("minutes", "expected"),
    [
        (None, [12, 18]),
        (100, [12, 18]),
        (5, [5, 10, 12, 17, 18]),
        (6, [6, 12, 18]),  # the end of an epoch without an evaluation
        (0.5, list(range(1, 19))),
    ],
)
def test_checkpoints_are_written_at_the_set_interval(minutes: float | None, expected: list[int], prepared: Path, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "checkout", prepared, checkpoint_every_minutes=minutes, **SETTINGS)
    run(root)
    assert saved_steps(root) == expected


@pytest.mark.parametrize("more", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_training_killed_after_a_checkpoint_within_an_epoch_goes_on_to_the_last_bit(
    more: dict[str, Any], prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    unbroken = write_workspace(tmp_path / "unbroken", prepared, checkpoint_every_minutes=None, **SETTINGS, **more)
    run(unbroken)
    root = write_workspace(tmp_path / "killed", prepared, checkpoint_every_minutes=4, **SETTINGS, **more)
    with monkeypatch.context() as patched:
        request.getfixturevalue("_a_minute_a_step")
        kill_at(11, patched)
        with pytest.raises(Killed):
            run(root)
    assert saved_steps(root) == [4, 8]
    run(root)
    assert rows(root) == rows(unbroken)
    assert training_report(root) == training_report(unbroken)
    weights, expected = (path / "models" / "candidate" / "model.safetensors" for path in (root, unbroken))
    assert weights.read_bytes() == expected.read_bytes()


@pytest.mark.usefixtures("_a_minute_a_step")
def test_a_training_whose_machine_is_lost_goes_on_at_another_from_the_copies(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, **EVERYTHING, "keep_checkpoints": 2, "checkpoint_every_minutes": 4, "trackers": ["mlflow"]}
    unbroken = write_workspace(tmp_path / "unbroken", prepared, **settings)
    run(unbroken)
    lost, other = (
        write_workspace(tmp_path / name, prepared, checkpoint_address=f"file://{tmp_path}/copies", **settings) for name in ("lost", "other")
    )
    with monkeypatch.context() as patched:
        kill_at(15, patched)
        with pytest.raises(Killed):
            run(lost)
    (lost / "mlflow.db").rename(other / "mlflow.db")  # in use, it is a server's
    shutil.rmtree(lost)
    steps: list[int] = []
    monkeypatch.setattr(Training, "take_step", noting(steps, Training.take_step))
    run(other)
    assert steps == list(range(13, 19))  # after the evaluation at step 12
    assert rows(other) == rows(unbroken)
    assert training_report(other) == training_report(unbroken)
    weights, expected = (path / "models" / "candidate" / "model.safetensors" for path in (other, unbroken))
    assert weights.read_bytes() == expected.read_bytes()
    (folder,) = (tmp_path / "copies").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        *("best.safetensors", "finished", "runs.json"),
        *("step-00000016.pt", "step-00000018.pt"),
    ]
    assert len(mlflow.search_runs(search_all_experiments=True)) == 1


def noting(steps: list[int], take: Callable[..., None]) -> Callable[..., None]:
    """Takes each step of a training, and notes its number."""

    def noted(self: Training, epoch: int, batches: Any) -> None:
        take(self, epoch, batches)
        steps.append(self.state.step)

    return noted
