"""The rows of training.csv."""

import csv
from pathlib import Path

import pytest
import torch

from reelnest.errors import TrainingError
from reelnest.training.checkpoint.history import History, StepFigures


def add(history: History, step: int, loss: float) -> None:
    losses = torch.tensor([loss + 1, loss - 1])
    history.add(1, step, StepFigures(torch.tensor(loss), losses, torch.tensor([0.05]), 0.1, torch.tensor(2.0)))


def test_figures_survive_a_checkpoint_and_the_csv_to_the_last_bit(tmp_path: Path) -> None:
    history = History((8, 16))
    for step in range(1, 4):
        add(history, step, 1 / (3 * step))
    history.flush()
    torch.save(history.state(), tmp_path / "state.pt")
    resumed = History((8, 16))
    resumed.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.rows == history.rows
    history.write_csv(tmp_path / "training.csv")
    with (tmp_path / "training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "step", "loss", "loss_8", "loss_16", "learning_rate", "gradient_norm", "temperature"]
    assert [float(row["loss"]) for row in rows] == [row.loss for row in history.rows]


def test_a_loss_that_is_no_number_names_its_step_and_the_last_good_loss() -> None:
    history = History((8, 16))
    add(history, 1, 0.5)
    history.flush()
    add(history, 2, 0.25)
    add(history, 3, float("nan"))
    add(history, 4, float("inf"))
    with pytest.raises(TrainingError, match=r"step 3 \(epoch 1\) is nan.*finite one was 0\.25.*learning_rate"):
        history.flush()
