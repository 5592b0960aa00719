"""What the follower needs of a cluster. Each backend implements `Scheduler` in one file."""

import os
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from reelnest.errors import ReelnestError
from reelnest.launch.jobs.job import Job


class SchedulerUnreachable(ReelnestError):  # noqa: N818 — a state, not a mistake
    """The cluster's controller does not respond, so the state of a job is unknown. It may respond later."""

    exit_status = os.EX_TEMPFAIL


class Phase(Enum):
    """The phase of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class JobState:
    """The state of a job, as the cluster reports it."""

    phase: Phase
    name: str
    """The cluster's own word, such as `NODE_FAIL`; empty for a job that it no longer knows."""
    reason: str = ""


class Scheduler(Protocol):
    """A cluster. Each method raises SchedulerUnreachable if it does not respond, and ConfigError if it refuses the job."""

    title: str
    """The cluster's name in messages."""
    memory_setting: str
    """The setting to raise if a job runs out of memory."""

    def submit(self, job: Job) -> str:
        """Submits the job and returns its id. It does not start before `release`, unless the id follows from the job's name."""

    def release(self, job_id: str) -> None:
        """Lets a submitted job start. Does nothing to a job that has started."""

    def find(self, name: str) -> str | None:
        """Returns the id of the job with this name that has not ended."""

    def state(self, job_id: str) -> JobState:
        """Returns the job's state."""

    def stop(self, job_id: str) -> None:
        """Requests the processes of a running job to save and end. The request may be lost; repeat it until the job ends."""

    def end(self, job_id: str) -> None:
        """Ends the job, waiting or running, without a chance to save."""

    def restart(self, job: Job, job_id: str) -> bool:
        """Starts a job again that has ended without a result, if it was interrupted and the cluster does not start it again by itself.

        Returns False if it is not started again.
        """
