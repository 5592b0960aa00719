"""A training as a Kubernetes job on a simulated cluster, compared with the same training on this machine, and after faults."""

import contextlib
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.integration.launch.cluster_training import (
    LONG,
    assert_same,
    checkpoints,
    messages,
    ranks,
    run_locally,
    set_slurm,
    start,
    train,
    wait_for_checkpoint,
    wait_until,
    write_checkout,
)
from tests.support.simulated_kubernetes import Cluster, simulated_cluster

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with simulated_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def unbroken(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The long training, on this machine."""
    root = write_checkout(tmp_path_factory.mktemp("unbroken") / "checkout", prepared, nodes=1, processes=2, backend="local", **LONG)
    run_locally(root)
    return root


def checkout(root: Path, prepared: Path, processes: int = 2, **train_settings: Any) -> Path:
    """A checkout whose training runs in two pods."""
    write_checkout(root, prepared, nodes=2, processes=processes, backend="kubernetes", **train_settings)
    path = root / "configs" / "kubernetes" / "job.yaml"
    path.write_text(path.read_text().replace("mountPath: /project}", f"mountPath: {root}}}"))
    return root


def nothing_runs(cluster: Cluster) -> bool:
    return not cluster.running() and not cluster.processes()


@pytest.mark.slow
def test_two_pods_of_two_processes_give_what_four_processes_of_one_machine_give(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    local = write_checkout(tmp_path / "local", prepared, nodes=1, processes=4, backend="local")
    run_locally(local)
    root = checkout(tmp_path / "kubernetes", prepared, processes=4)
    printed = train(root, cluster)
    assert "submitted Kubernetes job reelnest-train-" in printed
    assert "epoch 4: loss" in printed
    assert_same(root, local)
    assert nothing_runs(cluster)
    assert (root / "work" / "progress.json").is_file()


def evict(cluster: Cluster) -> None:
    cluster.evict(cluster.running()[1])


def preempt(cluster: Cluster) -> None:
    for pod in cluster.running():
        cluster.evict(pod, "PreemptionByScheduler")


def lose_node(cluster: Cluster) -> None:
    cluster.lose_node(cluster.running()[1])


def lose_first_node(cluster: Cluster) -> None:
    cluster.lose_node(cluster.running()[0])


def lose_api(cluster: Cluster) -> None:
    cluster.kill_api()
    time.sleep(30)
    cluster.start_api()


def overload_api(cluster: Cluster) -> None:
    for status in (429, 503):
        cluster.failing = status
        time.sleep(5)
    cluster.failing = None


def change_token(cluster: Cluster) -> None:
    cluster.token = secrets.token_hex(16)
    cluster.write_kubeconfig()


@pytest.mark.parametrize(
    "fault",
    [
        *(pytest.param(fault, marks=pytest.mark.slow) for fault in (evict, change_token)),
        *(pytest.param(fault, marks=pytest.mark.series) for fault in (preempt, lose_node, lose_first_node, lose_api, overload_api)),
    ],
)
def test_a_training_goes_on_by_itself_after(
    fault: Callable[[Cluster], None], unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path
) -> None:
    root = checkout(tmp_path / "checkout", prepared, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        fault(cluster)
        _, printed = command.communicate(timeout=240)
    assert command.returncode == 0, printed + messages(root)
    assert_same(root, unbroken)
    wait_until(lambda: nothing_runs(cluster), "the end of all processes")


@pytest.mark.series
def test_a_job_that_somebody_deletes_is_not_started_again_and_the_next_training_resumes(
    unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path
) -> None:
    root = checkout(tmp_path / "checkout", prepared, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        cluster.delete(cluster.created[0])
        _, printed = command.communicate(timeout=120)
    assert command.returncode == 1
    assert "was cancelled, but not by this command" in printed
    assert nothing_runs(cluster)
    train(root, cluster)
    assert_same(root, unbroken)


@pytest.mark.slow
def test_a_stop_request_saves_and_leaves_nothing_behind(unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = checkout(tmp_path / "checkout", prepared, **LONG)
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


@pytest.mark.series
def test_processes_that_ignore_a_stop_request_are_killed_within_the_grace_period(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = checkout(tmp_path / "checkout", prepared, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        for rank in ranks(cluster):
            with contextlib.suppress(psutil.Error):
                rank.suspend()
        command.send_signal(signal.SIGTERM)
        command.communicate(timeout=60)
    assert command.returncode == 128 + signal.SIGTERM
    wait_until(lambda: nothing_runs(cluster), "the end of all processes", seconds=30)


@pytest.mark.slow
def test_a_waiting_job_is_ended_by_a_stop_request(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    cluster.room = 1
    root = checkout(tmp_path / "checkout", prepared)
    with start(root, cluster) as command:
        wait_until(lambda: bool(cluster.running()), "the first pod")
        time.sleep(3)
        assert not ranks(cluster)  # it waits for the second one
        command.send_signal(signal.SIGTERM)
        _, printed = command.communicate(timeout=60)
    assert command.returncode == 128 + signal.SIGTERM
    assert "pending (0/4 nodes are available: 4 Insufficient nvidia.com/gpu.)" in printed
    assert printed.endswith("reelnest: train was interrupted (SIGTERM). The same command starts it again.\n")
    assert not cluster.jobs
    assert nothing_runs(cluster)


@pytest.mark.slow
def test_a_restarted_stage_follows_the_running_job(unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = checkout(tmp_path / "checkout", prepared, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        command.kill()
    printed = train(root, cluster)
    assert "train: following Kubernetes job reelnest-train-" in printed
    assert_same(root, unbroken)
    assert len(cluster.created) == 1


@pytest.mark.series
def test_a_restarted_stage_with_another_template_ends_the_running_job_first(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = checkout(tmp_path / "checkout", prepared, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        command.kill()
    path = root / "configs" / "kubernetes" / "job.yaml"
    path.write_text(path.read_text().replace("24Gi", "32Gi"))
    printed = train(root, cluster)
    assert "train: ending Kubernetes job reelnest-train-" in printed
    assert "submitted Kubernetes job" in printed
    assert nothing_runs(cluster)


@pytest.mark.series
def test_an_abandoned_job_saves_and_ends(unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = checkout(tmp_path / "checkout", prepared, **LONG)
    set_slurm(root, "kubernetes", abandoned_minutes=0.05)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        command.kill()
    before = checkpoints(root)
    wait_until(lambda: nothing_runs(cluster), "the end of all processes")
    assert checkpoints(root)[-1] > before[-1]
    assert not (root / "models").exists()
    train(root, cluster)
    assert_same(root, unbroken)


@pytest.mark.series
def test_a_job_whose_time_ends_saves_and_is_started_again(unbroken: Path, cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = checkout(tmp_path / "checkout", prepared, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        cluster.end_time(cluster.created[0])
        _, printed = command.communicate(timeout=200)
    assert command.returncode == 0, printed + messages(root)
    assert len(cluster.created) == 2
    assert_same(root, unbroken)


@pytest.mark.series
def test_a_job_that_is_interrupted_too_often_asks_to_be_started_again(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = checkout(tmp_path / "checkout", prepared, **LONG)
    set_slurm(root, "kubernetes", requeues=0)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        evict(cluster)
        _, printed = command.communicate(timeout=60)
    assert command.returncode == 75
    assert "was interrupted 1 times (launch.kubernetes.requeues)" in printed
    assert nothing_runs(cluster)


@pytest.mark.slow
def test_a_killed_rank_is_a_failure_and_a_container_without_memory_names_the_setting(
    cluster: Cluster, prepared: Path, tmp_path: Path
) -> None:
    root = checkout(tmp_path / "checkout", prepared, **LONG)
    with start(root, cluster) as command:
        wait_for_checkpoint(root, command)
        ranks(cluster)[1].kill()
        _, printed = command.communicate(timeout=120)
    assert command.returncode == 128 + signal.SIGKILL, printed
    assert "was ended by SIGKILL." in printed
    wait_until(lambda: nothing_runs(cluster), "the end of all processes")
    with start(root, cluster) as command:
        wait_until(lambda: bool(ranks(cluster)), "processes")
        cluster.kill_container(cluster.running()[0])
        _, printed = command.communicate(timeout=120)
    assert command.returncode == 1, printed
    assert "Raise launch.kubernetes.memory." in printed


@pytest.mark.slow
def test_an_error_of_a_rank_is_printed_once(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = checkout(tmp_path / "checkout", prepared, learning_rate=1e30, max_gradient_norm=1e30)
    with start(root, cluster) as command:
        _, printed = command.communicate(timeout=120)
    assert command.returncode == 1
    assert printed.count("reelnest: error:") == 1, printed
    assert nothing_runs(cluster)


@pytest.mark.slow
def test_what_a_container_printed_is_in_the_error_of_a_job_that_could_not_start(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = checkout(tmp_path / "checkout", prepared)
    path = root / "configs" / "kubernetes" / "job.yaml"
    template = yaml.safe_load(path.read_text())
    template["spec"]["template"]["spec"]["containers"][0]["command"] = ["sh", "-c", "echo no such module; exit 3"]
    path.write_text(yaml.safe_dump(template))
    with start(root, cluster) as command:
        _, printed = command.communicate(timeout=60)
    assert command.returncode == 1
    assert "ended in state FAILED, before its processes recorded a result.\nreelnest-train-" in printed
    assert "no such module" in printed
    assert len(cluster.created) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"namespace": "nowhere"}, "launch.kubernetes in params.yaml"),
        ({"context": "other"}, "Kubernetes: no usable configuration"),
    ],
)
def test_a_mistake_in_the_settings_is_named(settings: dict[str, str], text: str, cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    root = checkout(tmp_path / "checkout", prepared, epochs=1)
    set_slurm(root, "kubernetes", **settings)
    with start(root, cluster) as command:
        _, printed = command.communicate(timeout=60)
    assert command.returncode == 2, printed
    assert text in printed
