"""SLURM through its commands: `sbatch`, `scontrol`, `squeue` and `scancel`."""

import math
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reelnest.errors import ConfigError
from reelnest.launch.jobs.job import MARKS, Job
from reelnest.launch.jobs.scheduler import JobState, Phase, SchedulerUnreachable
from reelnest.settings import Slurm

COMMAND_SECONDS = 30.0
"""Longest time for one command. Without a controller, `squeue` waits for MessageTimeout, or longer."""
SAVING_SECONDS = 60
"""Added to the grace period when a job's time ends, because SLURM's clock has this resolution."""
PING = ("scontrol", "ping")
UNREACHABLE = ("contact slurm controller", "communication", "connection", "timed out", "zero bytes", "in standby mode", "try again")
"""Words in the errors of commands that got no response."""
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}


class SlurmScheduler:
    """A SLURM cluster."""

    title = "SLURM"
    memory_setting = "launch.slurm.mem"

    def submit(self, job: Job) -> str:
        """Submits the job, held."""
        script = job.folder / "script.sh"
        script.write_text(batch_script(job), encoding="utf-8")
        return command(sbatch_arguments(job, str(script))).partition(";")[0]

    def release(self, job_id: str) -> None:
        """Releases the job."""
        command(["scontrol", "release", job_id], may_fail=True)  # it fails for a job that has started

    def find(self, name: str) -> str | None:
        """Looks for the name in the queue of this user."""
        for line in command(["squeue", "--me", "--noheader", "--states=all", f"--name={name}", "--format=%i %T"]).splitlines():
            job_id, state = line.split()
            if state not in ENDED:
                return job_id
        return None

    def state(self, job_id: str) -> JobState:
        """Looks for the id among all jobs of this user. `squeue --jobs` would fail for a job that SLURM has forgotten."""
        for line in command(["squeue", "--me", "--noheader", "--states=all", "--format=%i|%T|%r"]).splitlines():
            listed, name, reason = line.split("|", maxsplit=2)
            if listed == job_id:
                phase = Phase.WAITING if name in WAITING else Phase.ENDED if name in ENDED else Phase.RUNNING
                return JobState(phase, name, "" if reason == "None" else reason)
        return JobState(Phase.ENDED, "")

    def stop(self, job_id: str) -> None:
        """Sends SIGTERM to the launchers. They are the first step; `srun` must not get the signal, because it would end the step."""
        command(["scancel", "--signal=TERM", f"{job_id}.0"], may_fail=True)

    def end(self, job_id: str) -> None:
        """Kills the steps, then cancels the job."""
        command(["scancel", "--signal=KILL", job_id], may_fail=True)
        command(["scancel", job_id], may_fail=True)

    def restart(self, _job: Job, _job_id: str) -> bool:
        """Returns False: the job has itself queued again (`slurm_job.py`)."""
        return False


def command(arguments: Sequence[str], *, may_fail: bool = False) -> str:
    """Runs a command of SLURM and returns its output. Raises SchedulerUnreachable or ConfigError if it fails.

    `may_fail`: an error such as a job that has ended is ignored.
    """
    try:
        done = subprocess.run(
            arguments,
            env=environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            start_new_session=True,  # so that Ctrl-C in a terminal does not reach it
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SchedulerUnreachable(f"SLURM: `{arguments[0]}` took longer than {COMMAND_SECONDS:g} s.") from None
    except FileNotFoundError:
        raise ConfigError(f"launch.backend: slurm needs SLURM's commands, and {arguments[0]} is not on PATH.") from None
    if done.returncode == 0:
        return done.stdout.strip()
    reason = " ".join(done.stderr.split()) or f"status {done.returncode}"
    if arguments == PING or any(words in reason.lower() for words in UNREACHABLE):
        raise SchedulerUnreachable(f"SLURM's controller does not respond ({reason}).")
    command(PING)
    if may_fail:
        return ""
    raise ConfigError(f"SLURM refused `{arguments[0]}`: {reason}. Check launch.slurm in params.yaml.")


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of a job, from that of this process: without the mark of a flow, and without another job's variables."""
    return {
        name: value
        for name, value in variables.items()
        if name != MARKS and (name == "SLURM_CONF" or not name.startswith(("SLURM_", "SLURMD_", "SBATCH_", "SRUN_")))
    }


def file_pattern(path: Path) -> str:
    """Returns the path as SLURM reads it in `--output`, where %j would be the job's number."""
    return str(path).replace("%", "%%")


def sbatch_arguments(job: Job, script: str) -> list[str]:
    """Returns the command line that submits a job."""
    spec = job.spec
    settings = Slurm.model_validate(spec.settings)
    arguments = [
        "sbatch",
        "--hold",
        "--parsable",
        f"--job-name={spec.name}",
        f"--comment=reelnest {spec.stage} in {spec.root}",
        f"--chdir={spec.root}",
        f"--output={file_pattern(job.messages)}",
        "--open-mode=append",
        "--export=ALL",
        f"--nodes={spec.nodes}",
        "--ntasks-per-node=1",
        "--requeue" if settings.requeues else "--no-requeue",
        f"--signal=B:TERM@{math.ceil(spec.grace_seconds) + SAVING_SECONDS}",
    ]
    for name in ("partition", "account", "qos", "time", "constraint", "reservation", "gres", "gpus_per_node", "cpus_per_task", "mem"):
        value: Any = getattr(settings, name)
        if value is not None:
            arguments.append(f"--{name.replace('_', '-')}={value}")
    if settings.exclusive:
        arguments.append("--exclusive")
    return [*arguments, *settings.sbatch_arguments, script]


def batch_script(job: Job) -> str:
    """Returns the script that SLURM runs on the first node."""
    spec = job.spec
    prologue = Slurm.model_validate(spec.settings).prologue
    start = shlex.join([spec.python, "-m", "reelnest.launch.jobs.slurm_job", str(job.folder)])
    return "\n".join(["#!/bin/bash", *prologue, f"exec {start}", ""])
