"""Faults at drawn moments of a training on simulated nodes: it ends with the bits of an undisturbed one, and nothing is left behind.

Usage: `pytest -m series tests/integration/launch/test_drawn_faults.py`. Needs root, because it mounts small disks.
"""

import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.integration.launch.cluster_training import (
    LONG,
    assert_same,
    checkpoints,
    messages,
    ranks,
    start,
    wait_until,
    write_checkout,
)
from tests.support.simulated_slurm import Cluster

pytestmark = [pytest.mark.series, pytest.mark.timeout(900)]

TRIALS = 20
MOST_COMMANDS = 6
DISK_MEGABYTES = 48


@dataclass
class Scene:
    """Where a fault happens."""

    cluster: Cluster
    root: Path
    command: subprocess.Popen[str]
    chance: random.Random

    def jobs(self) -> list[str]:
        return [job for job, _, name in self.cluster.jobs() if name.startswith("reelnest")]

    def kill(self, words: str) -> None:
        """Kills one process of the job with these words in its command line."""
        matching = []
        for process in self.cluster.processes():
            with contextlib.suppress(psutil.Error):
                if words in " ".join(process.cmdline()):
                    matching.append(process)
        if matching:
            self.chance.choice(matching).kill()


def kill_node(scene: Scene) -> None:
    node = scene.chance.choice(["node1", "node2"])
    scene.cluster.kill_node(node)
    time.sleep(scene.chance.uniform(0, 20))
    scene.cluster.start_node(node)


def preempt(scene: Scene) -> None:
    scene.cluster.command("sbatch", "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")


def preempt_with_grace(scene: Scene) -> None:
    for job in scene.jobs():
        with contextlib.suppress(AssertionError):
            scene.cluster.command("scancel", "--signal=TERM", f"{job}.0")


def cancel_job(scene: Scene) -> None:
    for job in scene.jobs():
        scene.cluster.command("scancel", job)


def lose_controller(scene: Scene) -> None:
    scene.cluster.kill_controller()
    time.sleep(scene.chance.uniform(0, 30))
    scene.cluster.start_controller()


def kill_command(scene: Scene) -> None:
    scene.command.kill()


def stop_command(scene: Scene) -> None:
    scene.command.send_signal(scene.chance.choice([signal.SIGTERM, signal.SIGINT]))


def kill_rank(scene: Scene) -> None:
    if running := ranks(scene.cluster):
        scene.chance.choice(running).kill()


def kill_launcher(scene: Scene) -> None:
    scene.kill("reelnest.launch.launcher")


def kill_job_process(scene: Scene) -> None:
    scene.kill("reelnest.launch.jobs.slurm_job")


def fill_disk(scene: Scene) -> None:
    filler = scene.root / "work" / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"0" * 65536)
    scene.command.wait(240)
    filler.unlink()


FAULTS = (
    *(kill_node, preempt, preempt_with_grace, cancel_job, lose_controller, kill_command),
    *(stop_command, kill_rank, kill_launcher, kill_job_process, fill_disk),
)


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Iterator[Path]:
    """A checkout whose `work/` is a small disk."""
    checkout = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, **LONG)
    (checkout / "work").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(checkout / "work")], check=True)
    yield checkout
    subprocess.run(["umount", "--lazy", str(checkout / "work")], check=True)


@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_training_survives_a_drawn_fault(trial: int, unbroken: Path, slurm: Cluster, root: Path) -> None:
    chance = random.Random(trial)
    fault = FAULTS[trial % len(FAULTS)]
    printed = []
    for number in range(MOST_COMMANDS):
        with start(root, slurm) as command:
            if number == 0:
                # Half of them hit the start of the job or its first steps, and half of them the later training.
                if chance.random() < 0.5:
                    wait_until(lambda: bool(checkpoints(root)) or command.poll() is not None, "a checkpoint")
                time.sleep(chance.uniform(0, 12))
                fault(Scene(slurm, root, command, chance))
            _, text = command.communicate(timeout=400)
            printed.append(f"{fault.__name__}: status {command.returncode}\n{text}")
        if command.returncode == 0:
            break
    assert command.returncode == 0, "\n".join([*printed, messages(root)])
    assert_same(root, unbroken)
    wait_until(slurm.is_idle, "the end of all processes", seconds=60)
