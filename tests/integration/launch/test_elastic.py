"""A training that goes on with another number of processes has the losses of one that did not change."""

import csv
import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.integration.launch.cluster_training import COMMAND, PATIENCE_SECONDS, checkpoints, run_locally, wait_until, write_checkout
from tests.integration.training.training_workspace import training_report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TOLERANCE = 1e-3
"""Relative, of a step's loss. The gradients differ by float32 sums in another order, and each later step carries the difference on."""
SETTINGS = {"epochs": 20, "batch_size": 16, "checkpoint_every_minutes": 0.01}


def train_until_stopped(root: Path) -> None:
    """Trains until there is a new checkpoint, and then requests a stop."""
    before = checkpoints(root)
    with subprocess.Popen(COMMAND, cwd=root, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as command:
        wait_until(lambda: checkpoints(root)[-1:] > before[-1:] or command.poll() is not None, "a new checkpoint")
        command.send_signal(signal.SIGTERM)
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 75, printed
    assert "stopped by SIGTERM after step" in printed


def set_processes(root: Path, processes: int) -> None:
    path = root / "configs" / "accelerate" / "shape.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"num_processes": processes}))


def losses(root: Path) -> dict[int, float]:
    with (root / "reports" / "training.csv").open(newline="") as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert [step for step, _ in rows] == list(range(1, len(rows) + 1))  # none is repeated or left out
    return dict(rows)


def test_a_training_goes_on_with_two_and_eight_processes_after_four(prepared: Path, tmp_path: Path) -> None:
    unchanged, root = (
        write_checkout(tmp_path / name, prepared, nodes=1, processes=4, backend="local", **SETTINGS) for name in ("unchanged", "changed")
    )
    run_locally(unchanged)
    train_until_stopped(root)
    set_processes(root, 2)
    train_until_stopped(root)
    set_processes(root, 8)
    run_locally(root)
    expected, changed = losses(unchanged), losses(root)
    assert changed.keys() == expected.keys()
    assert changed == pytest.approx(expected, rel=TOLERANCE)
    assert training_report(root)["processes"] == 8
    assert len(list((root / "work" / "checkpoints").iterdir())) == 1
