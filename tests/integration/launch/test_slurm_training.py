"""A training as a SLURM job on simulated nodes, compared with the same training on this machine, and after faults."""

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration.launch.cluster_training import (
    LONG,
    assert_same,
    checkpoints,
    messages,
    nothing_runs,
    ranks,
    run_locally,
    set_slurm,
    start,
    train,
    wait_for_checkpoint,
    wait_until,
    write_checkout,
)
from tests.support.simulated_slurm import Cluster

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unbroken(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The long training, on this machine."""
    root = write_checkout(tmp_path_factory.mktemp("unbroken") / "checkout", prepared, nodes=1, processes=2, backend="local", **LONG)
    run_locally(root)
    return root


def test_two_nodes_of_two_processes_give_what_four_processes_of_one_machine_give(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    local = write_checkout(tmp_path / "local", prepared, nodes=1, processes=4, backend="local")
    run_locally(local)
    root = write_checkout(tmp_path / "slurm", prepared, nodes=2, processes=4)
    printed = train(root, cluster)
    assert "submitted SLURM job 1" in printed
    assert "epoch 4: loss" in printed
    assert_same(root, local)
    assert nothing_runs(cluster)
    assert (root / "work" / "progress.json").is_file()


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


@pytest.mark.parametrize("fault", [kill_node, kill_first_node, preempt, interrupt_gently, restart_controller])
def test_a_training_goes_on_by_itself_after(
    fault: Callable[[Cluster], None], unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path
) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        fault(cluster)
        _, printed = command.communicate(timeout=240)
    assert command.returncode == 0, printed + messages(root)
    assert_same(root, unbroken)
    wait_until(lambda: nothing_runs(cluster), "the end of all processes")


def test_a_node_that_is_lost_and_comes_back_before_its_processes_meet_the_others_is_noticed(
    unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path
) -> None:
    """SLURM does not notice it, and the processes of the other node would wait forever."""
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, **LONG)
    with start(root, cluster) as command:
        wait_until(lambda: bool(list(root.glob("work/jobs/*/attempt-0/alive-1"))), "the second node")
        cluster.kill_node("node2")
        cluster.start_node("node2")
        _, printed = command.communicate(timeout=240)
    assert command.returncode == 0, printed + messages(root)
    assert "it is queued again" in messages(root)
    assert_same(root, unbroken)
    wait_until(lambda: nothing_runs(cluster), "the end of all processes")


def test_a_job_that_somebody_cancels_is_not_queued_again_and_the_next_training_resumes(
    unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path
) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        cluster.command("scancel", "1")
        _, printed = command.communicate(timeout=120)
    assert command.returncode == 1
    assert "SLURM job 1 was cancelled, but not by this command" in printed
    wait_until(lambda: nothing_runs(cluster), "the end of all processes")
    train(root, cluster)
    assert_same(root, unbroken)


def test_the_signal_of_a_killed_rank_is_the_status_and_the_next_training_resumes(
    unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path
) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        second = [rank for rank in ranks(cluster) if rank.environ()["RANK"] == "1"]
        assert len(second) == 1
        second[0].kill()
        _, printed = command.communicate(timeout=120)
    assert command.returncode == 128 + signal.SIGKILL, printed
    assert "reelnest: error: train: rank 1 was ended by SIGKILL." in printed
    wait_until(lambda: nothing_runs(cluster), "the end of all processes")
    train(root, cluster)
    assert_same(root, unbroken)


def test_a_stop_request_saves_and_leaves_nothing_behind(unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        before = checkpoints(root)
        command.send_signal(signal.SIGTERM)
        _, printed = command.communicate(timeout=60)
        assert nothing_runs(cluster)
    assert command.returncode == 75, printed
    assert "training: stopped by SIGTERM after step" in printed
    assert checkpoints(root)[-1] > before[-1]
    train(root, cluster)
    assert_same(root, unbroken)


def test_processes_that_ignore_a_stop_request_are_killed_within_the_grace_period(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        command.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        while command.poll() is None and time.monotonic() < deadline:
            for rank in ranks(cluster):  # again and again, because SLURM continues processes that it sends SIGTERM
                with contextlib.suppress(psutil.Error):
                    rank.suspend()
    assert command.returncode == 128 + signal.SIGTERM
    wait_until(lambda: nothing_runs(cluster), "the end of all processes", seconds=30)


def test_a_waiting_job_is_ended_by_a_stop_request(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    cluster.command("sbatch", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 300")
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2)
    with start(root, cluster) as command:
        wait_until(lambda: len(cluster.jobs()) == 2, "the second job")
        command.send_signal(signal.SIGTERM)
        _, printed = command.communicate(timeout=60)
    assert command.returncode == 128 + signal.SIGTERM
    assert printed.endswith("reelnest: train was interrupted (SIGTERM). The same command starts it again.\n")
    assert [job[0] for job in cluster.jobs()] == ["1"]


def test_a_restarted_stage_follows_the_running_job(unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        command.kill()
    printed = train(root, cluster)
    assert "train: following SLURM job 1, which an earlier command submitted" in printed
    assert_same(root, unbroken)
    assert [job[0] for job in cluster.jobs("all")] == ["1"]


def test_a_restarted_stage_with_other_settings_ends_the_running_job_first(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        command.kill()
    params = (root / "params.yaml").read_text()
    assert "epochs: 25" in params
    (root / "params.yaml").write_text(params.replace("epochs: 25", "epochs: 1"))
    printed = train(root, cluster)
    assert "train: ending SLURM job 1" in printed
    assert "submitted SLURM job 2" in printed
    assert nothing_runs(cluster)


def test_a_job_whose_command_was_killed_is_ended_by_the_next_training_of_another_checkout(
    unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path
) -> None:
    """As two runs of a deployment, which share their checkpoints."""
    first, second = (write_checkout(tmp_path / name, prepared, nodes=2, processes=2, **LONG) for name in ("first", "second"))
    (tmp_path / "work").mkdir()
    for root in (first, second):
        (root / "work").symlink_to(tmp_path / "work")
    with start(first, cluster) as command:
        wait_for_checkpoint(first, command)
        command.kill()
    printed = train(second, cluster)
    assert "train: ending SLURM job 1: the command that started it was killed" in printed
    assert_same(second, unbroken)
    assert not (first / "models").exists()


def test_an_abandoned_job_saves_and_ends(unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, **LONG)
    set_slurm(root, abandoned_minutes=0.05)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        command.kill()
    before = checkpoints(root)
    wait_until(lambda: nothing_runs(cluster), "the end of all processes")
    assert checkpoints(root)[-1] > before[-1]
    assert not (root / "models").exists()
    train(root, cluster)
    assert_same(root, unbroken)


def test_a_job_whose_time_ends_saves_and_is_queued_again(unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        # What `sbatch --signal=B:TERM@…` does towards the end.
        cluster.command("scancel", "--batch", "--signal=TERM", "1")
        _, printed = command.communicate(timeout=200)
    assert command.returncode == 0, printed + messages(root)
    assert_same(root, unbroken)


def test_a_job_that_is_interrupted_too_often_asks_to_be_started_again(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, **LONG)
    set_slurm(root, requeues=0)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        cluster.command("scancel", "--signal=TERM", "1.0")
        _, printed = command.communicate(timeout=60)
    assert command.returncode == 75
    assert "SLURM job 1 was interrupted 1 times (launch.slurm.requeues)" in printed
    assert nothing_runs(cluster)


def test_an_error_of_a_rank_is_printed_once(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, learning_rate=1e30, max_gradient_norm=1e30)
    with start(root, cluster) as command:
        _, printed = command.communicate(timeout=120)
    assert command.returncode == 1
    assert printed.count("reelnest: error:") == 1, printed
    assert nothing_runs(cluster)


def test_a_wrong_partition_is_a_mistake_in_the_settings(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2)
    set_slurm(root, partition="nope")
    with start(root, cluster) as command:
        _, printed = command.communicate(timeout=60)
    assert command.returncode == 2
    assert "SLURM refused `sbatch`" in printed
    assert "invalid partition specified: nope" in printed
    assert "launch.slurm in params.yaml" in printed


def test_a_controller_that_is_away_delays_a_training(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, epochs=1)
    cluster.kill_controller()
    with start(root, cluster) as command:
        time.sleep(15)
        assert command.poll() is None
        cluster.start_controller()
        _, printed = command.communicate(timeout=120)
    assert command.returncode == 0, printed
    assert "SLURM's controller does not respond" in printed
    assert len(cluster.jobs("all")) == 1
