"""A training as a job of a simulated SLURM or Kubernetes, compared with the same training on this machine, and after it was ended."""

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.launch.cluster_training import (
    LONG,
    PATIENCE_SECONDS,
    TEMPLATE,
    AnyCluster,
    assert_same,
    change_settings,
    checkpoints,
    ranks,
    run_locally,
    start,
    train,
    wait_for_checkpoint,
    wait_until,
    write_checkout,
)

pytestmark = pytest.mark.timeout(900)


def on_both(slurm: pytest.MarkDecorator, kubernetes: pytest.MarkDecorator) -> pytest.MarkDecorator:
    """A test on each cluster, with a mark for each."""
    return pytest.mark.parametrize(
        "place", [pytest.param("slurm", marks=slurm), pytest.param("kubernetes", marks=kubernetes)], indirect=True
    )


@dataclass(frozen=True)
class Place:
    """A cluster, and a folder for checkouts whose trainings run on it."""

    backend: str
    title: str
    cluster: AnyCluster
    folder: Path
    prepared: Path
    cancel: Callable[[], object]
    """Ends the job, as somebody does who does not know of the command."""
    interrupt: Callable[[], object]
    """Ends the job with a chance to save, as a preemption with a grace time does."""

    def checkout(self, processes: int = 2, **settings: Any) -> Path:
        """A checkout whose training runs on two nodes."""
        return write_checkout(self.folder / "checkout", self.prepared, nodes=2, processes=processes, backend=self.backend, **settings)


@pytest.fixture
def place(request: pytest.FixtureRequest, prepared: Path, tmp_path: Path) -> Place:
    cluster = request.getfixturevalue(request.param)
    if request.param == "slurm":
        return Place(
            *("slurm", "SLURM", cluster, tmp_path, prepared),
            cancel=lambda: cluster.command("scancel", "1"),
            interrupt=lambda: cluster.command("scancel", "--signal=TERM", "1.0"),
        )
    return Place(
        *("kubernetes", "Kubernetes", cluster, tmp_path, prepared),
        cancel=lambda: cluster.delete(cluster.created[0]),
        interrupt=lambda: cluster.evict(cluster.running()[1]),
    )


@on_both(slurm=pytest.mark.slow, kubernetes=pytest.mark.series)
def test_two_nodes_of_two_processes_give_what_four_processes_of_one_machine_give(place: Place) -> None:
    local = write_checkout(place.folder / "local", place.prepared, nodes=1, processes=4, backend="local")
    run_locally(local)
    root = place.checkout(processes=4)
    printed = train(root, place.cluster)
    assert f"submitted {place.title} job" in printed
    assert "epoch 4: loss" in printed
    assert_same(root, local)
    assert place.cluster.is_idle()
    assert (root / "work" / "progress.json").is_file()


def assert_the_next_training_resumes(place: Place, root: Path, unbroken: Path) -> None:
    """Once nothing of the one before is left, and gives what an unbroken one gives."""
    wait_until(place.cluster.is_idle, "the end of all processes")
    train(root, place.cluster)
    assert_same(root, unbroken)


@on_both(slurm=pytest.mark.series, kubernetes=pytest.mark.series)
def test_a_job_that_somebody_cancels_does_not_start_again_and_the_next_training_resumes(place: Place, unbroken: Path) -> None:
    root = place.checkout(**LONG)
    with start(root, place.cluster) as command:
        wait_for_checkpoint(root, command)
        place.cancel()
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 1
    assert "was cancelled, but not by this command" in printed
    assert_the_next_training_resumes(place, root, unbroken)


@on_both(slurm=pytest.mark.series, kubernetes=pytest.mark.series)
def test_the_signal_of_a_killed_rank_is_the_status_and_the_next_training_resumes(place: Place, unbroken: Path) -> None:
    root = place.checkout(**LONG)
    with start(root, place.cluster) as command:
        wait_for_checkpoint(root, command)
        second = [rank for rank in ranks(place.cluster) if rank.environ()["RANK"] == "1"]
        assert len(second) == 1
        second[0].kill()
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 128 + signal.SIGKILL, printed
    assert "reelnest: error: train: rank 1 was ended by SIGKILL." in printed
    assert_the_next_training_resumes(place, root, unbroken)


@on_both(slurm=pytest.mark.slow, kubernetes=pytest.mark.series)
def test_a_stop_request_saves_and_leaves_nothing_behind(place: Place, unbroken: Path) -> None:
    root = place.checkout(**LONG)
    with start(root, place.cluster) as command:
        wait_for_checkpoint(root, command)
        before = checkpoints(root)
        command.send_signal(signal.SIGTERM)
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
        assert place.cluster.is_idle()
    assert command.returncode == 75, printed
    assert "training: stopped by SIGTERM after step" in printed
    assert checkpoints(root)[-1] > before[-1]
    train(root, place.cluster)
    assert_same(root, unbroken)


@on_both(slurm=pytest.mark.slow, kubernetes=pytest.mark.series)
def test_processes_that_ignore_a_stop_request_are_killed_within_the_grace_period(place: Place) -> None:
    root = place.checkout(**LONG)
    with start(root, place.cluster) as command:
        wait_for_checkpoint(root, command)
        command.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        while command.poll() is None and time.monotonic() < deadline:
            for rank in ranks(place.cluster):  # again and again, because SLURM continues processes that it sends SIGTERM
                with contextlib.suppress(psutil.Error):
                    rank.suspend()
    assert command.returncode == 128 + signal.SIGTERM
    wait_until(place.cluster.is_idle, "the end of all processes", seconds=30)


@on_both(slurm=pytest.mark.series, kubernetes=pytest.mark.slow)
def test_a_restarted_stage_follows_the_running_job(place: Place, unbroken: Path) -> None:
    root = place.checkout(**LONG)
    with start(root, place.cluster) as command:
        wait_for_checkpoint(root, command)
        command.kill()
    printed = train(root, place.cluster)
    assert f"train: following {place.title} job" in printed
    assert "train: submitted" not in printed
    assert_same(root, unbroken)


@on_both(slurm=pytest.mark.series, kubernetes=pytest.mark.series)
def test_a_restarted_stage_with_other_inputs_ends_the_running_job_first(place: Place) -> None:
    root = place.checkout(**LONG)
    with start(root, place.cluster) as command:
        wait_for_checkpoint(root, command)
        command.kill()
    file, old, new = (TEMPLATE, "24Gi", "32Gi") if place.backend == "kubernetes" else (Path("params.yaml"), "epochs: 25", "epochs: 1")
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new))
    printed = train(root, place.cluster)
    assert f"train: ending {place.title} job" in printed
    assert f"submitted {place.title} job" in printed
    assert place.cluster.is_idle()


@on_both(slurm=pytest.mark.slow, kubernetes=pytest.mark.series)
def test_an_abandoned_job_saves_and_ends(place: Place, unbroken: Path) -> None:
    root = place.checkout(**LONG)
    change_settings(root, abandoned_minutes=0.05)
    with start(root, place.cluster) as command:
        wait_for_checkpoint(root, command)
        command.kill()
    before = checkpoints(root)
    wait_until(place.cluster.is_idle, "the end of all processes")
    assert checkpoints(root)[-1] > before[-1]
    assert not (root / "models").exists()
    train(root, place.cluster)
    assert_same(root, unbroken)


@on_both(slurm=pytest.mark.series, kubernetes=pytest.mark.series)
def test_a_job_that_is_interrupted_too_often_asks_to_be_started_again(place: Place) -> None:
    root = place.checkout(**LONG)
    change_settings(root, requeues=0)
    with start(root, place.cluster) as command:
        wait_for_checkpoint(root, command)
        place.interrupt()
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 75
    assert f"was interrupted 1 times (launch.{place.backend}.requeues)" in printed
    assert place.cluster.is_idle()


@on_both(slurm=pytest.mark.slow, kubernetes=pytest.mark.slow)
def test_an_error_of_a_rank_is_printed_once(place: Place) -> None:
    root = place.checkout(learning_rate=1e30, max_gradient_norm=1e30)
    with start(root, place.cluster) as command:
        _, printed = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 1
    assert printed.count("reelnest: error:") == 1, printed
    assert place.cluster.is_idle()
