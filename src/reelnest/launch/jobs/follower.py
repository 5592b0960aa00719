"""Follows a stage's job on a cluster, as the launcher follows local processes. `launch_command` makes its command line.

Usage: `python -m reelnest.launch.jobs.follower SPECIFICATION ARGUMENT...`

1. A job of the same stage in the same checkout with the same inputs that still runs is followed. Otherwise one is submitted.
   Jobs without a follower are ended first, since they would write to the same checkpoints.
2. The job's log is printed while it runs.
3. SIGTERM, SIGHUP or Ctrl-C requests the job to save and end. After the grace period, or at a second Ctrl-C, it is killed.
4. This process ends when the job has ended, with the exit status of its ranks.

If the controller does not respond, the state is unknown, and this process tries again. If this process is killed, the job runs on until it
is followed again, or until it notices that it is abandoned.
"""

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from reelnest.atomic_files import wait_for_lock
from reelnest.errors import ReelnestError, storage_problem
from reelnest.launch.command import prepare_process
from reelnest.launch.failures import interrupted_text
from reelnest.launch.jobs.following import Following, conclude
from reelnest.launch.jobs.job import JOBS, Job, JobSpec, Result, remove_old
from reelnest.launch.jobs.scheduler import Scheduler, SchedulerUnreachable
from reelnest.launch.stop_signals import StopSignals
from reelnest.settings import Kubernetes

T = TypeVar("T")

log = logging.getLogger("reelnest.launch.jobs.follower")  # not __main__, whose lines are not shown


class StopRequested(Exception):  # noqa: N818 — a state, not a mistake
    """A signal came before there was a job."""


class Follower:
    """Runs one stage on a cluster."""

    def __init__(self, spec: JobSpec, scheduler: Scheduler, signals: StopSignals) -> None:
        self._spec, self._scheduler, self._signals = spec, scheduler, signals
        self._folder = (Path(spec.root) / JOBS).resolve()
        self._job = Job(self._folder / spec.name)

    def run(self) -> Result:
        """Runs the job to its end."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with wait_for_lock(self._job.lock, f"{self._job.folder}: it follows the same job"):
                self._end_orphans()
                job_id = self._running() or self._submit()
                return self._follow(job_id)
        except StopRequested:
            return Result(128 + self._signals.number, interrupted_text(self._spec.stage, self._signals.number))

    def _follow(self, job_id: str) -> Result:
        following = Following(self._scheduler, self._job, job_id, self._signals, self._spec)
        state = following.to_end()
        following.write_usage()
        return conclude(self._job, job_id, state, self._scheduler, self._signals)

    def _running(self) -> str | None:
        """Returns the id of a job of this stage to follow. One with other inputs is ended."""
        job_id = self._reached(lambda: self._scheduler.find(self._spec.name))
        if job_id is None:
            return None
        if self._job.is_of(self._spec) and self._job.result is None and not self._job.stop_requested:
            self._job.write_id(job_id)
            self._reached(lambda: self._scheduler.release(job_id))
            log.info("%s: following %s job %s, which an earlier command submitted", self._spec.stage, self._scheduler.title, job_id)
            return job_id
        self._end(self._job, job_id, "its inputs have changed since, or it is ending")
        return None

    def _submit(self) -> str:
        remove_old(self._folder)
        self._job.begin(self._spec)

        def submit() -> str:
            # A controller may have accepted a job although its response was lost.
            return self._scheduler.find(self._spec.name) or self._scheduler.submit(self._job)

        job_id = self._reached(submit)
        self._job.write_id(job_id)
        self._reached(lambda: self._scheduler.release(job_id))
        log.info("%s: submitted %s job %s, log: %s", self._spec.stage, self._scheduler.title, job_id, self._job.log)
        return job_id

    def _end_orphans(self) -> None:
        """Ends the jobs of this stage in other checkouts with the same work folder, whose followers have been killed."""
        for folder in sorted(self._folder.glob(f"reelnest-{self._spec.stage}-*")):
            job = Job(folder)
            if folder == self._job.folder or not folder.is_dir() or job.result is not None or job.is_followed_elsewhere:
                continue
            with _lock_or_none(job.lock) as lock:
                if lock is None:
                    continue
                job_id = self._reached(lambda job=job: self._scheduler.find(job.folder.name))  # type: ignore[misc]  # a default binds it
                if job_id is not None:
                    self._end(job, job_id, "the command that started it was killed")

    def _end(self, job: Job, job_id: str, reason: str) -> None:
        spec = job.spec_or_none
        if spec is None:  # its folder was removed, or is of another version
            job.folder.mkdir(exist_ok=True)
            spec = self._spec
        _end(self._scheduler, job, job_id, spec, reason)

    def _reached(self, call: Callable[[], T]) -> T:
        """Calls until the controller responds."""
        is_first = True
        while True:
            if self._signals.requested:
                raise StopRequested
            try:
                return call()
            except SchedulerUnreachable as error:
                if is_first:
                    log.warning("%s Trying again.", error)
                is_first = False
                self._signals.wait(self._spec.poll_seconds)


def end_jobs_of(root: Path) -> bool:
    """Ends the jobs that were submitted in a checkout and whose followers have been killed. They save first.

    Returns False if a command on another machine may follow one. Raises SchedulerUnreachable if the controller does not respond.
    """
    are_ended = True
    for folder in sorted((root / JOBS).resolve().glob("reelnest-*")):
        job = Job(folder)
        spec = job.spec_or_none
        if spec is None:  # not a job's folder, or one that is being removed
            continue
        if Path(spec.root) != root.resolve() or job.result is not None:
            continue
        with _lock_or_none(job.lock) as lock:
            if lock is None or job.is_followed_elsewhere:
                are_ended = False
                continue
            scheduler = scheduler_of(spec)
            job_id = scheduler.find(spec.name)
            if job_id is not None:
                _end(scheduler, job, job_id, spec, "the run that submitted it was killed")
    return are_ended


def _end(scheduler: Scheduler, job: Job, job_id: str, spec: JobSpec, reason: str) -> None:
    log.info("%s: ending %s job %s: %s", spec.stage, scheduler.title, job_id, reason)
    Following(scheduler, job, job_id, StopSignals(signal.SIGTERM), spec, show=False).to_end()


def scheduler_of(spec: JobSpec) -> Scheduler:
    """Returns the cluster of `launch.backend`."""
    if spec.backend == "kubernetes":
        from reelnest.launch.jobs.kubernetes import KubernetesScheduler

        return KubernetesScheduler(Kubernetes.model_validate(spec.settings))
    from reelnest.launch.jobs.slurm import SlurmScheduler

    return SlurmScheduler()


@contextmanager
def _lock_or_none(path: Path) -> Iterator[FileLock | None]:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield None
        return
    try:
        yield lock
    finally:
        lock.release()


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status of the stage."""
    prepare_process()
    text, *module_arguments = arguments
    spec = replace(JobSpec.from_json(text), arguments=tuple(module_arguments))
    signals = StopSignals()
    signals.install()
    try:
        result = Follower(spec, scheduler_of(spec), signals).run()
    except ReelnestError as error:
        result = Result(error.exit_status, f"reelnest: error: {error}")
    except OSError as error:
        problem = storage_problem(error)
        if problem is None:
            raise
        result = Result(1, f"reelnest: error: {problem}")
    if result.text:
        sys.stderr.write(f"{result.text}\n")
    return result.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
