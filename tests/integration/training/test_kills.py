"""A training that is killed at any moment goes on as if nothing had happened. `kill_trials.py` takes more moments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.training.training_workspace import ROOT


@pytest.mark.slow
def test_two_processes_killed_at_random_moments_end_with_the_unbroken_trainings_losses_and_weights(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.integration.training.kill_trials", str(tmp_path)]
    command += ["--kills", "2", "--processes", "2", "--epochs", "3", "--seed", "1"]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": equal\n") == 2, done.stdout
