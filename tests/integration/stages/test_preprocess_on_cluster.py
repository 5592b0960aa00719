"""Preprocessing on a Dask cluster, of which workers are killed and the scheduler is restarted."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from distributed import LocalCluster

from reelnest.errors import DataError
from reelnest.records.formats import write_quarantine
from reelnest.settings import Params, Preprocess, Validate
from reelnest.stages import preprocess
from reelnest.stages.workspace import Workspace
from reelnest.store.frame_cache import spill_frames
from reelnest.store.prepared import Prepared
from reelnest.video import cluster as decoding_cluster
from reelnest.video.frames import Frames
from tasks.services.prefect_server import free_port

MakeVideo = Callable[..., Path]
SETTINGS = Preprocess(frames=4, min_pixels=3136, max_pixels=3136)
VIDEOS = 24
KILLED_AFTER = 4
"""Videos that are decoded when something is killed."""


@pytest.fixture
def workspace(tmp_path: Path, make_video: MakeVideo) -> Workspace:
    root = tmp_path / "checkout"
    for number in range(VIDEOS):
        make_video(f"checkout/data/{number}.mp4", frames=10 + number)
    records = {
        "videos": [
            *({"video_id": f"v{number}", "path": f"{number}.mp4"} for number in range(VIDEOS)),
            {"video_id": "end of 5", "path": "5.mp4", "start": 0.3},
        ],
        "pairs": [{"query": {"text": f"query {number}"}, "target": {"video": f"v{number}"}, "split": "train"} for number in range(VIDEOS)],
    }
    for name, lines in records.items():
        (root / "data" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_quarantine(root / "reports" / "quarantine.jsonl", [])
    return Workspace(root)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50) as started:
        yield started


def prepared(workspace: Workspace, name: str, scheduler: str | None = None) -> dict[str, bytes]:
    """The bytes of what preprocessing makes in a checkout of its own, with the same data."""
    root = workspace.root.with_name(name)
    root.mkdir()
    for folder in ("data", "reports"):
        (root / folder).symlink_to(workspace.root / folder)
    preprocess.run(Workspace(root), Params(preprocess=SETTINGS.model_copy(update={"scheduler": scheduler})))
    assert json.loads((root / "work" / "preprocessing.json").read_text())["decoded"] == VIDEOS + 1
    report = {"report": (root / "reports" / "preprocessing.json").read_bytes()}
    return report | {str(file.relative_to(root)): file.read_bytes() for file in (root / "prepared").rglob("*") if file.is_file()}


def after_some_videos(root: Path, act: Callable[[], None]) -> threading.Thread:
    """Calls `act` in a thread, when some videos of this checkout are decoded."""

    def wait() -> None:
        while len(list((root / "work").rglob("*.arrow"))) < KILLED_AFTER:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_dask_cluster_prepares_the_same_bytes(workspace: Workspace, cluster: LocalCluster) -> None:
    assert prepared(workspace, "there", cluster.scheduler_address) == prepared(workspace, "here")


def test_a_bad_video_on_the_cluster_costs_that_video_alone(workspace: Workspace, cluster: LocalCluster) -> None:
    (workspace.data / "1.mp4").write_text("overwritten since\n")
    settings = SETTINGS.model_copy(update={"scheduler": cluster.scheduler_address})
    preprocess.run(workspace, Params(preprocess=settings, validation=Validate(max_quarantined_fraction=0.2)))
    videos = {"end of 5", *(f"v{number}" for number in range(VIDEOS) if number != 1)}
    assert set(Prepared.open(workspace.prepared).store.video_ids) == videos


def test_a_scheduler_that_does_not_answer_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_cluster, "CONNECT_SECONDS", 1)
    nobody = Params(preprocess=SETTINGS.model_copy(update={"scheduler": "tcp://127.0.0.1:9"}))
    with pytest.raises(DataError, match=r"no Dask scheduler responds at tcp://127\.0\.0\.1:9"):
        preprocess.run(workspace, nobody)


def test_after_all_workers_are_killed_their_successors_prepare_the_same_bytes(
    workspace: Workspace, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding_cluster, "CHUNK", 2)

    def kill() -> None:
        for nanny in cluster.workers.values():
            os.kill(nanny.pid, signal.SIGKILL)

    killer = after_some_videos(workspace.root.with_name("there"), kill)
    there = prepared(workspace, "there", cluster.scheduler_address)
    killer.join(1)
    assert not killer.is_alive()
    assert there == prepared(workspace, "here")


def end_the_worker(folder: Path, key: str, frames: Frames) -> None:
    """In place of `spill_frames`."""
    if frames.grid_thw[0]:
        os._exit(1)
    spill_frames(folder, key, frames)


def test_videos_that_end_each_worker_are_named(workspace: Workspace, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "spill_frames", end_the_worker)
    settings = SETTINGS.model_copy(update={"scheduler": cluster.scheduler_address})
    with pytest.raises(DataError, match=rf"several workers of {cluster.scheduler_address} ended .*{workspace.data}/\d+\.mp4"):
        preprocess.run(workspace, Params(preprocess=settings))


def start(stack: ExitStack, *arguments: str) -> subprocess.Popen[bytes]:
    """A Dask process, which is killed at the end."""
    command = [str(Path(sys.executable).with_name("dask")), *arguments, "--no-dashboard"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def start_cluster(stack: ExitStack, port: int) -> Sequence[subprocess.Popen[bytes]]:
    worker = ("worker", f"tcp://127.0.0.1:{port}", "--nthreads", "1", "--no-nanny")
    return [start(stack, "scheduler", "--host", "127.0.0.1", "--port", str(port)), start(stack, *worker), start(stack, *worker)]


@pytest.mark.slow
def test_after_a_restart_of_the_scheduler_the_rest_is_decoded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decoding_cluster, "CHUNK", 2)
    port = free_port()
    with ExitStack() as stack:
        processes = start_cluster(stack, port)

        def restart() -> None:
            for process in processes:
                process.kill()
                process.wait()
            start_cluster(stack, port)

        restarter = after_some_videos(workspace.root.with_name("there"), restart)
        there = prepared(workspace, "there", f"tcp://127.0.0.1:{port}")
        restarter.join(10)
        assert not restarter.is_alive()
    assert "the connection to the Dask scheduler at tcp://127.0.0.1" in caplog.text
    assert there == prepared(workspace, "here")


@pytest.mark.slow
def test_a_scheduler_without_workers_is_not_waited_for_without_end(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_cluster, "CHUNK", 2)
    port = free_port()
    with ExitStack() as stack:
        _, *workers = start_cluster(stack, port)

        def kill() -> None:
            monkeypatch.setattr(decoding_cluster, "WORKERS_SECONDS", 2)
            for worker in workers:
                worker.kill()

        after_some_videos(workspace.root.with_name("there"), kill)
        with pytest.raises(DataError, match="has lost all its workers"):
            prepared(workspace, "there", f"tcp://127.0.0.1:{port}")
