"""A training as a SLURM job on simulated nodes: what differs from Kubernetes."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.launch.cluster_training import (
    LONG,
    PATIENCE_SECONDS,
    assert_goes_on,
    assert_same,
    change_settings,
    messages,
    start,
    train,
    wait_for_checkpoint,
    wait_until,
    write_checkout,
)
from tests.support.simulated_slurm import Cluster

pytestmark = pytest.mark.timeout(900)


def kill_node(cluster: Cluster) -> None:
    cluster.kill_node("node2")


def kill_first_node(cluster: Cluster) -> None:
    """With the job's own process."""
    cluster.kill_node("node1")


def preempt(cluster: Cluster) -> None:
    cluster.command("sbatch", "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")


def interrupt_gently(cluster: Cluster) -> None:
    """As a preemption with a grace time does."""
    cluster.command("scancel", "--signal=TERM", "1.0")


def restart_controller(cluster: Cluster) -> None:
    cluster.kill_controller()
    time.sleep(3)
    cluster.start_controller()


def end_time(cluster: Cluster) -> None:
    """As `sbatch --signal=B:TERM@…` does towards the end."""
    cluster.command("scancel", "--batch", "--signal=TERM", "1")


@pytest.mark.parametrize(
    "fault",
    [
        *(pytest.param(fault, marks=pytest.mark.slow) for fault in (kill_first_node, preempt)),
        *(pytest.param(fault, marks=pytest.mark.series) for fault in (kill_node, interrupt_gently, restart_controller, end_time)),
    ],
)
def test_a_training_goes_on_by_itself_after(
    fault: Callable[[Cluster], None], unbroken: Path, slurm: Cluster, prepared: Path, tmp_path: Path
) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, **LONG)
    assert_goes_on(root, slurm, lambda: fault(slurm), unbroken)


@pytest.mark.series
def test_a_node_that_is_lost_and_comes_back_before_its_processes_meet_the_others_is_noticed(
    unbroken: Path, slurm: Cluster, prepared: Path, tmp_path: Path
) -> None:
    """SLURM does not notice it, and the processes of the other node would wait forever."""
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, **LONG)
    with start(root, slurm) as command:
        wait_until(lambda: bool(list(root.glob("work/jobs/*/attempt-0/alive-1"))), "the second node")
        slurm.kill_node("node2")
        slurm.start_node("node2")
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 0, printed + messages(root)
    assert "it is queued again" in messages(root)
    assert_same(root, unbroken)
    wait_until(slurm.is_idle, "the end of all processes")


@pytest.mark.slow
def test_a_waiting_job_is_ended_by_a_stop_request(slurm: Cluster, prepared: Path, tmp_path: Path) -> None:
    slurm.command("sbatch", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 300")
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2)
    with start(root, slurm) as command:
        wait_until(lambda: len(slurm.jobs()) == 2, "the second job")
        command.send_signal(signal.SIGTERM)
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 128 + signal.SIGTERM
    assert printed.endswith("reelnest: train was interrupted (SIGTERM). The same command starts it again.\n")
    assert [job[0] for job in slurm.jobs()] == ["1"]


@pytest.mark.slow
def test_a_job_whose_command_was_killed_is_ended_by_the_next_training_of_another_checkout(
    unbroken: Path, slurm: Cluster, prepared: Path, tmp_path: Path
) -> None:
    """As two runs of a deployment, which share their checkpoints."""
    first, second = (write_checkout(tmp_path / name, prepared, nodes=2, processes=2, **LONG) for name in ("first", "second"))
    (tmp_path / "work").mkdir()
    for root in (first, second):
        (root / "work").symlink_to(tmp_path / "work")
    with start(first, slurm) as command:
        wait_for_checkpoint(first, command)
        command.kill()
    printed = train(second, slurm)
    assert "train: ending SLURM job 1: the command that started it was killed" in printed
    assert_same(second, unbroken)
    assert not (first / "models").exists()


@pytest.mark.slow
def test_a_wrong_partition_is_a_mistake_in_the_settings(slurm: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2)
    change_settings(root, partition="nope")
    with start(root, slurm) as command:
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 2
    assert "SLURM refused `sbatch`" in printed
    assert "invalid partition specified: nope" in printed
    assert "launch.slurm in params.yaml" in printed


@pytest.mark.series
def test_a_controller_that_is_away_delays_a_training(slurm: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, epochs=1)
    slurm.kill_controller()
    with start(root, slurm) as command:
        time.sleep(15)
        assert command.poll() is None
        slurm.start_controller()
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 0, printed
    assert "SLURM's controller does not respond" in printed
    assert len(slurm.jobs("all")) == 1
