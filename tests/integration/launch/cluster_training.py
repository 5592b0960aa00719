"""A small training that runs as a job on two nodes of a cluster, and what is true of it after a fault."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import psutil
import yaml

from tests.integration.training.training_workspace import ROOT, training_report, write_workspace


class AnyCluster(Protocol):
    """A simulated cluster."""

    environment: dict[str, str]

    def is_idle(self) -> bool:
        """Whether neither a job nor a process of one is left."""

    def processes(self) -> list[psutil.Process]:
        """The processes of all jobs."""


COMMAND = (sys.executable, "-c", "from reelnest.cli import app; app()", "train")
TEMPLATE = Path("configs/kubernetes/job.yaml")
PATIENCE_SECONDS = 300
"""How long to wait for what takes a minute on an idle machine."""
LONG: dict[str, Any] = {"epochs": 25, "checkpoint_every_minutes": 0.02}
"""A training that is long enough for a fault."""


def write_checkout(root: Path, prepared: Path, *, nodes: int, processes: int, backend: str = "slurm", **train: Any) -> Path:
    """A checkout whose training runs `processes` processes on `nodes` nodes."""
    write_workspace(root, prepared, **train)
    (root / "configs").unlink()
    shutil.copytree(ROOT / "configs", root / "configs")
    folder = root / "configs" / "accelerate"
    shape = yaml.safe_load((folder / "cpu-2.yaml").read_text())
    shape |= {"num_machines": nodes, "num_processes": processes, "same_network": True, "rdzv_backend": "static"}
    (folder / "shape.yaml").write_text(yaml.safe_dump(shape))
    template = root / TEMPLATE
    template.write_text(template.read_text().replace("mountPath: /project}", f"mountPath: {root}}}"))
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["launch"] = {
        "config": "shape",
        "backend": backend,
        "grace_seconds": 20.0,
        "slurm": {"poll_seconds": 0.5, "lost_node_seconds": 20.0},
        "kubernetes": {"poll_seconds": 0.5, "lost_node_seconds": 20.0},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return root


def change_settings(root: Path, **settings: Any) -> None:
    """Changes settings of the backend, such as `launch.slurm`."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["launch"][params["launch"]["backend"]].update(settings)
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def start(root: Path, cluster: AnyCluster) -> subprocess.Popen[str]:
    """Starts `reelnest train`."""
    return subprocess.Popen(
        COMMAND,
        cwd=root,
        env=os.environ | cluster.environment | {"COLUMNS": "200"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def train(root: Path, cluster: AnyCluster) -> str:
    """Trains to the end and returns what `reelnest train` prints."""
    with start(root, cluster) as command:
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 0, printed + messages(root)
    return printed


def messages(root: Path) -> str:
    """What the cluster printed about the jobs of a checkout."""
    return "".join(path.read_text() for path in root.glob("work/jobs/*/messages.txt"))


def checkpoints(root: Path) -> list[str]:
    """The names of the checkpoints, in order."""
    return sorted(path.name for path in root.glob("work/checkpoints/*/step-*.pt"))


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.1)


def wait_for_checkpoint(root: Path, command: subprocess.Popen[str]) -> None:
    """Waits until the training has saved a checkpoint."""
    wait_until(lambda: bool(checkpoints(root)) or command.poll() is not None, "a checkpoint")
    assert command.poll() is None, command.communicate()


def ranks(cluster: AnyCluster) -> list[psutil.Process]:
    """The processes that train."""
    training = []
    for process in cluster.processes():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "reelnest.launch.rank" in words and "reelnest.launch.launcher" not in words:
                training.append(process)
    return training


def assert_goes_on(root: Path, cluster: AnyCluster, fault: Callable[[], object], unbroken: Path) -> None:
    """A training goes on by itself after a fault, and nothing is left of it at the end."""
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        fault()
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 0, printed + messages(root)
    assert_same(root, unbroken)
    wait_until(cluster.is_idle, "the end of all processes")


def assert_same(first: Path, second: Path) -> None:
    """Two trainings have the same losses, report and weights, to the last bit."""
    for name in ("reports/training.csv", "models/candidate/model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert training_report(first) == training_report(second)


def run_locally(root: Path) -> None:
    """Trains on this machine."""
    done = subprocess.run(COMMAND, cwd=root, env=os.environ, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
