"""A flow whose process is really ended: nothing that it started goes on."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.usefixtures("prefect_server")


def running_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != psutil.Process().pid and process.cwd() == str(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.1)


# SIGTERM is how Prefect cancels a run.
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_of_a_stage_survives_its_flow(signal_number: signal.Signals, project: Path, child_environment: dict[str, str]) -> None:
    (project / "behaviour.txt").write_text("validate hang\n")
    with subprocess.Popen(
        [sys.executable, "-m", "flows.pipeline"], env=child_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as flow:
        wait_until((project / "worker-ready").exists)
        assert len(running_in(project)) >= 5  # flow, guard, dvc, stage, worker
        flow.send_signal(signal_number)
        flow.wait(40)
    wait_until(lambda: not running_in(project), seconds=20)
