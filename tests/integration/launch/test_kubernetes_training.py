"""A training as a Kubernetes job on a simulated cluster: what differs from SLURM."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.integration.launch.cluster_training import (
    LONG,
    PATIENCE_SECONDS,
    TEMPLATE,
    assert_goes_on,
    change_settings,
    ranks,
    start,
    wait_until,
    write_checkout,
)
from tests.support.simulated_kubernetes import Cluster

pytestmark = pytest.mark.timeout(900)


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
    cluster.api.kill()
    time.sleep(30)
    cluster.api.start()


def overload_api(cluster: Cluster) -> None:
    for status in (429, 503):
        cluster.api.failing = status
        time.sleep(5)
    cluster.api.failing = None


def change_token(cluster: Cluster) -> None:
    cluster.api.change_token()


def end_time(cluster: Cluster) -> None:
    cluster.end_time(cluster.created[0])


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    """A checkout whose training runs in two pods."""
    return write_checkout(tmp_path / "checkout", prepared, nodes=2, processes=2, backend="kubernetes", **LONG)


@pytest.mark.parametrize(
    "fault",
    [
        *(pytest.param(fault, marks=pytest.mark.slow) for fault in (evict, change_token)),
        *(
            pytest.param(fault, marks=pytest.mark.series)
            for fault in (preempt, lose_node, lose_first_node, lose_api, overload_api, end_time)
        ),
    ],
)
def test_a_training_goes_on_by_itself_after(fault: Callable[[Cluster], None], unbroken: Path, kubernetes: Cluster, root: Path) -> None:
    assert_goes_on(root, kubernetes, lambda: fault(kubernetes), unbroken)


@pytest.mark.slow
def test_a_waiting_job_is_ended_by_a_stop_request(kubernetes: Cluster, root: Path) -> None:
    kubernetes.room = 1
    with start(root, kubernetes) as command:
        wait_until(lambda: bool(kubernetes.running()), "the first pod")
        time.sleep(3)
        assert not ranks(kubernetes)  # it waits for the second one
        command.send_signal(signal.SIGTERM)
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 128 + signal.SIGTERM
    assert "pending (0/4 nodes are available: 4 Insufficient nvidia.com/gpu.)" in printed
    assert printed.endswith("reelnest: train was interrupted (SIGTERM). The same command starts it again.\n")
    assert not kubernetes.jobs
    assert kubernetes.is_idle()


@pytest.mark.slow
def test_the_error_of_a_container_without_memory_names_the_setting(kubernetes: Cluster, root: Path) -> None:
    with start(root, kubernetes) as command:
        wait_until(lambda: bool(ranks(kubernetes)), "processes")
        kubernetes.kill_container(kubernetes.running()[0])
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 1, printed
    assert "Raise launch.kubernetes.memory." in printed


@pytest.mark.slow
def test_what_a_container_printed_is_in_the_error_of_a_job_that_could_not_start(kubernetes: Cluster, root: Path) -> None:
    template = yaml.safe_load((root / TEMPLATE).read_text())
    template["spec"]["template"]["spec"]["containers"][0]["command"] = ["sh", "-c", "echo no such module; exit 3"]
    (root / TEMPLATE).write_text(yaml.safe_dump(template))
    with start(root, kubernetes) as command:
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 1
    assert "ended in state FAILED, before its processes recorded a result.\nreelnest-train-" in printed
    assert "no such module" in printed
    assert len(kubernetes.created) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"namespace": "nowhere"}, "launch.kubernetes in params.yaml"),
        ({"context": "other"}, "Kubernetes: no usable configuration"),
    ],
)
def test_a_mistake_in_the_settings_is_named(settings: dict[str, str], text: str, kubernetes: Cluster, root: Path) -> None:
    change_settings(root, **settings)
    with start(root, kubernetes) as command:
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 2, printed
    assert text in printed
