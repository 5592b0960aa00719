"""A training that is killed at any moment goes on as if nothing had happened. `kill_trials.py` takes more moments."""

import os
import subprocess
import sys
from pathlib import Path


def test_two_processes_killed_at_random_moments_end_with_the_unbroken_trainings_losses_and_weights(tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_trials.py")
    command = [sys.executable, str(script), str(tmp_path), "--kills", "2", "--processes", "2", "--epochs", "3", "--seed", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": equal\n") == 2, done.stdout
