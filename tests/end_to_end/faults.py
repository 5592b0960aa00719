"""What can go wrong while a run is at work: each fault is brought about for real, and goes away again."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from tasks.process.runner import GUARD, output_of
from tasks.services.prefect_server import PREFECT
from tasks.workspaces.run_folders import RUNS, run_id
from tests.end_to_end.supervised_services import Services, wait_until
from tests.support.simulated_slurm import Cluster

AWAY_SECONDS = 30
LOCKED_SECONDS = 20
CLOCK_SOURCE = Path(__file__).with_name("clock.c")
HOUR = 3600
PROGRAMS = {"train": "reelnest.stages.train", "evaluate": "reelnest.stages.evaluate"}
"""What a stage's own processes are called, where that is not `reelnest STAGE`."""
STARTERS = ("reelnest.launch.launcher", "reelnest.launch.jobs")
HOLD = """
import sys, time
from dvc.lock import Lock
lock = Lock(sys.argv[1], wait=True)
lock.lock()
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@dataclass
class Scene:
    """Where a fault happens."""

    services: Services
    api: SyncPrefectClient
    stage: str
    chance: random.Random
    run: FlowRun | None = None
    cluster: Cluster | None = None
    """Where its stages run, if not on this machine."""

    @property
    def project(self) -> Path:
        return self.services.project

    @property
    def flow_run(self) -> str:
        assert self.run is not None
        return str(self.run.id)

    @property
    def worktree(self) -> Path:
        return self.project / RUNS / run_id(self.flow_run)

    @property
    def clock(self) -> Path:
        """How many seconds off the time is, for a run that has a clock of its own."""
        return self.project.parent / "clock"

    def processes(self) -> list[psutil.Process]:
        """The run's."""
        return self.services.processes_of(self.flow_run)

    def stage_processes(self) -> list[psutil.Process]:
        """The stage's own processes, without those that started and watch it."""
        program = PROGRAMS.get(self.stage, f"/reelnest {self.stage}")
        found = []
        for process in self.processes():
            try:
                words = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if program in words and str(GUARD) not in words and not any(module in words for module in STARTERS):
                found.append(process)
        return found

    def flow_process(self) -> psutil.Process:
        """The one in which the flow runs: it started the guard of the stage's command."""
        guards = [process for process in self.processes() if GUARD.name in " ".join(process.cmdline()[:3])]
        parents = {guard.parent() for guard in guards}
        (found,) = [parent for parent in parents if parent is not None and parent not in guards]
        return found


Act = Callable[[Scene], None]


def nothing(_scene: Scene) -> None:
    pass


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    stages: tuple[str, ...]
    """One of them is at work when it happens."""
    ends: tuple[str, ...]
    """The states that are true of the run afterwards."""
    strike: Act
    before: Act = nothing
    """Before the run starts."""
    heal: Act = nothing
    """When the run has ended."""
    is_end: bool = False
    """The run's processes have to be gone a minute after the fault; else a minute after the run's end."""
    leaves_job: bool = False
    """A job on a cluster may go on after the run's end, until the next run."""
    environment: Callable[[Scene], Mapping[str, str]] = lambda _scene: {}
    """The flow's."""


def cancel_by_page(scene: Scene) -> None:
    scene.api.set_flow_run_state(scene.run.id, Cancelling())  # type: ignore[union-attr]  # the run has begun


def cancel_by_command(scene: Scene) -> None:
    output_of([*PREFECT, "flow-run", "cancel", scene.flow_run], environment=scene.services.client)


def terminate_worker(scene: Scene) -> None:
    scene.services.process("worker").send_signal(signal.SIGTERM)
    start_worker_again(scene)


def kill_worker(scene: Scene) -> None:
    scene.services.process("worker").kill()
    start_worker_again(scene)


def start_worker_again(scene: Scene) -> None:
    wait_until(lambda: scene.services.ended("worker"), "the worker's end", seconds=60)
    scene.services.stop_service("worker")
    scene.services.start_service("worker")


def kill_flow(scene: Scene) -> None:
    scene.flow_process().kill()


def kill_stage(scene: Scene) -> None:
    """The largest, as the kernel does when memory is short."""
    if found := scene.stage_processes():
        max(found, key=lambda process: process.memory_info().rss).kill()


def restart_machine(scene: Scene) -> None:
    scene.services.kill_everything()
    scene.services.start()


def take_mlflow_away(scene: Scene) -> None:
    """For a while: it takes requests and answers none, or is not there at all."""
    if scene.chance.random() < 0.5:
        stop_mlflow(scene)
        time.sleep(AWAY_SECONDS)
        start_mlflow(scene)
    else:
        hold_mlflow(scene)


def hold_mlflow(scene: Scene) -> None:
    process = scene.services.process("mlflow")
    held = [process, *process.children(recursive=True)]
    for one in held:
        one.suspend()
    time.sleep(AWAY_SECONDS)
    for one in held:
        one.resume()


def stop_mlflow(scene: Scene) -> None:
    scene.services.stop_service("mlflow")


def start_mlflow(scene: Scene) -> None:
    scene.services.start_service("mlflow")
    scene.services.wait_for_servers()


def restart_prefect(scene: Scene) -> None:
    scene.services.stop_service("prefect")
    scene.services.start_service("prefect")
    scene.services.wait_for_servers()


def small_disk(folder: Path, size: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)


def large_disk(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_models(scene: Scene) -> None:
    small_disk(scene.worktree / "models", "1m")


def hold_dvc(scene: Scene) -> None:
    """Somebody uses DVC in the run's worktree, and in the checkout, for a while."""
    for folder in (scene.project, scene.worktree):
        holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder / ".dvc/tmp/lock"), str(LOCKED_SECONDS)], stdout=subprocess.PIPE)
        assert holder.stdout is not None
        holder.stdout.readline()


def own_clock(scene: Scene) -> Mapping[str, str]:
    return {"LD_PRELOAD": str(scene.clock.with_suffix(".so")), "CLOCK_OFFSET": str(scene.clock)}


def make_clock(scene: Scene) -> None:
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(scene.clock.with_suffix(".so")), str(CLOCK_SOURCE)], check=True)
    scene.clock.write_text("0")


def set_clock_back(scene: Scene) -> None:
    scene.clock.write_text(str(-HOUR))


def remove_worktree(scene: Scene) -> None:
    while scene.worktree.exists():
        shutil.rmtree(scene.worktree, ignore_errors=True)


ANY = ("preprocess", "train", "train", "evaluate", "register")
DIED, CANCELLED, DONE, FAILED = ("Crashed",), ("Cancelled",), ("Completed",), ("Failed",)
FAULTS: Mapping[str, Fault] = {
    "cancel-ui": Fault(ANY, CANCELLED, cancel_by_page, is_end=True),
    "cancel-cli": Fault(ANY, CANCELLED, cancel_by_command, is_end=True),
    "worker-term": Fault(ANY, DIED, terminate_worker, is_end=True),
    "worker-kill": Fault(ANY, DIED, kill_worker, is_end=True),
    "flow-kill": Fault(ANY, DIED, kill_flow, is_end=True),
    "stage-kill": Fault(("preprocess", "train", "evaluate", "register"), DONE, kill_stage),
    "restart": Fault(ANY, DIED, restart_machine, is_end=True),
    "mlflow-away-30s": Fault(("train", "evaluate", "register"), DONE, take_mlflow_away),
    "mlflow-gone": Fault(("train", "evaluate"), FAILED, stop_mlflow, heal=start_mlflow),
    "prefect-restart": Fault(("preprocess", "train", "evaluate"), DONE, restart_prefect),
    "disk-full-store": Fault(
        ("preprocess",),
        FAILED,
        nothing,
        before=lambda scene: small_disk(scene.project / "work/frames", "200k"),
        heal=lambda scene: large_disk(scene.project / "work/frames"),
    ),
    "disk-full-checkpoint": Fault(
        ("train",),
        FAILED,
        nothing,
        before=lambda scene: small_disk(scene.project / "work/checkpoints", scene.chance.choice(["1m", "12m"])),
        heal=lambda scene: large_disk(scene.project / "work/checkpoints"),
    ),
    "disk-full-model": Fault(("train",), FAILED, fill_models, heal=lambda scene: large_disk(scene.worktree / "models")),
    "dvc-lock": Fault(("preprocess", "train", "evaluate"), DONE, hold_dvc),
    "clock-back": Fault(("preprocess", "train", "evaluate"), DONE, set_clock_back, before=make_clock, environment=own_clock),
    "worktree-gone": Fault(("preprocess", "train", "evaluate"), FAILED, remove_worktree),
}
