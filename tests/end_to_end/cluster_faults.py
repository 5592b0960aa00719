"""Faults of runs whose trainings and evaluations are jobs on simulated SLURM nodes, which share the disk `work/` with the flow."""

import contextlib
import time
from collections.abc import Mapping

import psutil

from tests.end_to_end.faults import DIED, DONE, FAILED, Fault, Scene, kill_flow, kill_worker
from tests.support.simulated_slurm import Cluster

DISK_SIZE = "256m"


def cluster_of(scene: Scene) -> Cluster:
    assert scene.cluster is not None
    return scene.cluster


def kill_node(scene: Scene) -> None:
    node = scene.chance.choice(["node1", "node2"])
    cluster_of(scene).kill_node(node)
    time.sleep(scene.chance.uniform(0, 20))
    cluster_of(scene).start_node(node)


def preempt(scene: Scene) -> None:
    cluster_of(scene).command("sbatch", "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")


def cancel_job(scene: Scene) -> None:
    """Somebody does, with `scancel`."""
    for job, _, name in cluster_of(scene).jobs():
        if name.startswith("reelnest"):
            cluster_of(scene).command("scancel", job)


def restart_controller(scene: Scene) -> None:
    cluster_of(scene).kill_controller()
    time.sleep(scene.chance.uniform(0, 30))
    cluster_of(scene).start_controller()


def kill_submitters(scene: Scene) -> None:
    """All processes of the run at once, guards included, but not its job: what is left when the machine of the worker goes."""
    inside = cluster_of(scene).processes()
    for process in scene.processes():
        if process not in inside:
            with contextlib.suppress(psutil.Error):
                process.kill()


def fill_disk(scene: Scene) -> None:
    with contextlib.suppress(OSError), (scene.project / "work/filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"0" * 65536)


def make_room(scene: Scene) -> None:
    (scene.project / "work/filler").unlink(missing_ok=True)


JOBS = ("train", "train", "evaluate")
CLUSTER_FAULTS: Mapping[str, Fault] = {
    "node-killed": Fault(JOBS, DONE, kill_node),
    "preempted": Fault(JOBS, DONE, preempt),
    "job-cancelled": Fault(JOBS, FAILED, cancel_job),
    "controller-restarted": Fault(JOBS, DONE, restart_controller),
    "flow-killed": Fault(JOBS, DIED, kill_flow, is_end=True),
    "worker-killed": Fault(JOBS, DIED, kill_worker, is_end=True),
    "submitters-killed": Fault(JOBS, DIED, kill_submitters, leaves_job=True),
    "disk-full": Fault(JOBS, FAILED, fill_disk, heal=make_room),
}
