"""Runs inside a SLURM job, on its first node: starts one launcher a node, and records how the job ended.

Usage, in the job's script: `python -m reelnest.launch.jobs.slurm_job FOLDER`

1. All nodes at work: it waits. A stop request comes as SIGTERM to the launchers (from the follower, or a preemption), or to this process
   (the end of the job's time, `scancel`), which passes it on.
2. All launchers have ended: it records the result, from the outcomes of all nodes.
3. The job was interrupted from outside, or a launcher has disappeared with its node: it has SLURM queue the job again, which resumes from
   the last checkpoint. A job that was cancelled is not queued again.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from reelnest.launch.failures import FOLDER_VARIABLE, NODE_VARIABLE, UNREPORTED_STATUS
from reelnest.launch.jobs.job import Job, JobSpec, interrupted_too_often
from reelnest.launch.jobs.nodes import POLL_SECONDS, Abandoned, Nodes, free_port, launcher_command, launcher_variables, write_result
from reelnest.launch.jobs.scheduler import SchedulerUnreachable
from reelnest.launch.jobs.slurm import SlurmScheduler, command, file_pattern
from reelnest.settings import Slurm

REPEAT_SECONDS = 3.0
"""Between two stop requests to launchers that may not have started yet."""
HANGING_SECONDS = 15.0
"""How long `srun` may run on after the grace period. It waits for nodes that no longer exist."""


class SlurmJob:
    """One attempt of a job, on its first node."""

    def __init__(self, job: Job) -> None:
        self._job, self._spec = job, job.spec
        self._settings = Slurm.model_validate(self._spec.settings)
        self._id = os.environ["SLURM_JOB_ID"]
        self._number = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self._attempt = job.attempt(self._number)
        self._signalled = False
        self._abandoned = Abandoned(job, self._settings.abandoned_minutes)
        self._nodes = Nodes(self._attempt, self._spec.nodes, self._settings.lost_node_seconds)

    def run(self) -> int:
        """Runs the launchers to their end. Returns the exit status of the job."""
        signal.signal(signal.SIGTERM, self._on_signal)
        failures = self._attempt / "failures"
        failures.mkdir(parents=True, exist_ok=True)
        if self._job.stop_requested:
            return self._conclude()
        port = free_port(*self._settings.ports)
        arguments = srun_arguments(self._spec, address_of_this_node(), port, self._job.log)
        variables = {
            **os.environ,
            **launcher_variables(self._spec, cpus_of_this_node(os.environ), os.environ),
            FOLDER_VARIABLE: str(failures),
        }
        with subprocess.Popen(arguments, env=variables, stdin=subprocess.DEVNULL) as srun:
            self._wait(srun)
            status = srun.poll()
            if status is None:  # it waits for a lost node
                srun.kill()
        if status == UNREPORTED_STATUS:
            return UNREPORTED_STATUS
        self._nodes.look()
        return self._conclude()

    def _wait(self, srun: subprocess.Popen[bytes]) -> None:
        """Waits for `srun`, passes stop requests on, and stops the other nodes after a failure."""
        stopping: float | None = None
        requested = 0.0
        while srun.poll() is None:
            now = time.monotonic()
            self._nodes.look()
            if self._signalled or self._abandoned() or self._job.stop_requested or self._nodes.are_broken:
                stopping = stopping or now
                if now - requested > REPEAT_SECONDS and not self._nodes.have_ended:
                    requested = now
                    _stop(self._id)
                if now - stopping > self._spec.grace_seconds + HANGING_SECONDS:
                    return
            time.sleep(POLL_SECONDS)

    def _conclude(self) -> int:
        outcome = self._nodes.outcome(is_stopped=self._job.stop_requested or self._abandoned())
        if outcome is None:
            return self._queue_again(lost=self._spec.nodes - len(self._nodes.outcomes))
        return write_result(self._job, self._attempt, outcome)

    def _queue_again(self, lost: int) -> int:
        """Has SLURM queue the job again, if it is not being ended or queued again already."""
        running = self._is_running()
        if running and self._number < self._settings.requeues:
            sys.stderr.write(f"reelnest: job {self._id} lost {lost} nodes or was interrupted; it is queued again\n")
            command(["scontrol", "requeue", self._id])
            time.sleep(self._spec.grace_seconds)  # SLURM ends this process
        elif running:
            self._job.write_result(interrupted_too_often(SlurmScheduler.title, self._id, self._number + 1))
        return os.EX_TEMPFAIL

    def _is_running(self) -> bool:
        """Returns whether SLURM has not begun to end this job. Waits for a controller that does not respond."""
        while True:
            try:
                return SlurmScheduler().state(self._id).name == "RUNNING"
            except SchedulerUnreachable:
                time.sleep(self._settings.poll_seconds)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True


def srun_arguments(spec: JobSpec, address: str, port: int, log: Path) -> list[str]:
    """Returns the command line that starts one launcher on each node. `address` and `port` are where the first process listens."""
    settings = Slurm.model_validate(spec.settings)
    script = f'export {NODE_VARIABLE}="$SLURM_NODEID"; exec {shlex.join(launcher_command(spec, address, port))}'
    arguments = [
        "srun",
        f"--nodes={spec.nodes}",
        f"--ntasks={spec.nodes}",
        "--ntasks-per-node=1",
        "--export=ALL",
        "--kill-on-bad-exit=0",  # each node records how its ranks ended
        "--wait=0",
        "--input=none",
        f"--output={file_pattern(log)}",
        "--open-mode=append",
    ]
    if settings.cpus_per_task is not None:
        arguments.append(f"--cpus-per-task={settings.cpus_per_task}")  # srun does not take it from sbatch since 22.05
    return [*arguments, *settings.srun_arguments, "bash", "-c", script]


def cpus_of_this_node(environment: Mapping[str, str]) -> int | None:
    """Returns the CPUs that SLURM gives the launcher of this node."""
    cpus = environment.get("SLURM_CPUS_PER_TASK") or environment.get("SLURM_CPUS_ON_NODE")
    return None if cpus is None else int(cpus)


def address_of_this_node() -> str:
    """Returns the address under which SLURM reaches this node."""
    name = os.environ["SLURMD_NODENAME"]
    while True:
        try:
            described = command(["scontrol", "show", "node", name, "--oneliner"])
        except SchedulerUnreachable:
            time.sleep(POLL_SECONDS)
            continue
        fields = dict(field.split("=", maxsplit=1) for field in described.split() if "=" in field)
        return fields.get("NodeAddr", name)


def _stop(job_id: str) -> None:
    try:
        SlurmScheduler().stop(job_id)
    except SchedulerUnreachable as error:
        sys.stderr.write(f"{error}\n")


if __name__ == "__main__":
    sys.exit(SlurmJob(Job(Path(sys.argv[1]))).run())
