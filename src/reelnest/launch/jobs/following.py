"""One job, from its submission to its end: its log is printed, a stop request is passed on, and its end is put into words."""

import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from reelnest.launch.failures import interrupted_text
from reelnest.launch.jobs.job import Job, JobSpec, Result
from reelnest.launch.jobs.scheduler import JobState, Phase, Scheduler, SchedulerUnreachable
from reelnest.launch.stop_signals import SLICE_SECONDS, StopSignals
from reelnest.launch.usage import Holding, Meter

REPEAT_SECONDS = 3.0
"""Between two stop requests. A request to processes that have not started yet is lost."""
KILL_SECONDS = 10.0
"""The end of the grace period, in which the job is killed instead of asked."""
UNKNOWN_SECONDS = 60.0
"""How long to wait for a controller that does not respond, once the job has recorded its result or should have been killed."""
RETRIED = ("", "BOOT_FAIL", "DEADLINE", "NODE_FAIL", "PREEMPTED", "TIMEOUT")
"""States after which the same command may succeed, so a flow starts it again."""

log = logging.getLogger(__name__)


class LogTail:
    """Prints what is appended to a file, in lines. Starts at its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0

    def copy(self, *, all_of_it: bool = False) -> None:
        """Prints the lines that are new, and at last an incomplete one."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                new = file.read()
        except OSError:
            return
        complete = new if all_of_it else new[: new.rfind(b"\n") + 1]
        if complete:
            self._at += len(complete)
            sys.stderr.write(complete.decode("utf-8", errors="replace"))
            sys.stderr.flush()


class Following:
    """Follows one job to its end."""

    def __init__(self, scheduler: Scheduler, job: Job, job_id: str, signals: StopSignals, spec: JobSpec, *, show: bool = True) -> None:
        """`spec` is the job's, or that of another job of the stage if the job's cannot be read."""
        self._scheduler, self._job, self._id, self._signals = scheduler, job, job_id, signals
        self._spec, self._show = spec, show
        self._poll_seconds, self._grace_seconds = spec.poll_seconds, spec.grace_seconds
        self._tail = LogTail(job.log)
        self._meter = Meter(job.usage)
        self._shown: JobState | None = None
        self._stop_sent = -REPEAT_SECONDS
        self._unreachable_since: float | None = None

    def to_end(self) -> JobState | None:
        """Returns the last state of the job; None if the controller has not responded for too long to know it."""
        ended = 0
        while True:
            with suppress(OSError):  # a full disk, which the job reports itself
                self._job.beat()
            state = self._state()
            if state is not None:
                self._report(state)
                with suppress(OSError):
                    self._meter.note(is_running=state.phase == Phase.RUNNING)
                ended = ended + 1 if state.phase == Phase.ENDED else 0
                # Seen twice without a result: a job that is queued again may look as if it had ended.
                if ended == 2 or (ended and self._job.result is not None):
                    if self._is_started_again():
                        ended = 0
                        continue
                    self._copy(all_of_it=True)
                    return state
            elif self._is_hopeless():
                self._copy(all_of_it=True)
                return None
            self._wait()

    def _state(self) -> JobState | None:
        try:
            state = self._scheduler.state(self._id)
            if self._signals.requested and state.phase != Phase.ENDED:
                self._stop(state)
        except SchedulerUnreachable as error:
            if self._unreachable_since is None:
                log.warning("%s The job is not affected. Trying again.", error)
                self._unreachable_since = time.monotonic()
            return None
        if self._unreachable_since is not None:
            log.info("%s responds again", self._scheduler.title)
        self._unreachable_since = None
        return state

    def _stop(self, state: JobState) -> None:
        """Ends a waiting job. Requests a running one to save and end, and kills it towards the end of the grace period."""
        now = time.monotonic()
        if now - self._stop_sent < REPEAT_SECONDS:
            return
        self._stop_sent = now
        with suppress(OSError):  # the scheduler passes the request on too, or kills the job in the end
            self._job.request_stop()
        if state.phase == Phase.WAITING or self._signals.at_once or now > self._kill_from:
            self._scheduler.end(self._id)
        else:
            self._scheduler.stop(self._id)

    def write_usage(self) -> None:
        """Adds what the job used to the checkout's file."""
        if self._spec.holding:
            with suppress(OSError):  # the job's result counts more
                self._meter.usage(Holding(**self._spec.holding)).append(Path(self._spec.root))

    def _is_started_again(self) -> bool:
        """Has the cluster start a job again that was interrupted, unless it should end."""
        if self._job.result is not None or self._job.stop_requested or self._signals.requested:
            return False
        try:
            return self._scheduler.restart(self._job, self._id)
        except SchedulerUnreachable as error:
            log.warning("%s Trying again.", error)
            self._signals.wait(self._poll_seconds)
            return True

    @property
    def _kill_from(self) -> float:
        since = self._signals.since or time.monotonic()
        return since + max(self._grace_seconds - KILL_SECONDS, self._grace_seconds / 2)

    def _is_hopeless(self) -> bool:
        """Returns whether to give up waiting for the controller."""
        now = time.monotonic()
        if self._unreachable_since is None or now - self._unreachable_since < UNKNOWN_SECONDS:
            return False
        return self._job.result is not None or (self._signals.requested and now > self._kill_from + KILL_SECONDS + UNKNOWN_SECONDS)

    def _wait(self) -> None:
        """Waits until the next look at the state, and prints the log meanwhile."""
        # A job that has recorded its result, or should stop, ends soon.
        is_ending = self._signals.requested or self._job.result is not None
        deadline = time.monotonic() + (min(self._poll_seconds, 1.0) if is_ending else self._poll_seconds)
        before = (self._signals.requested, self._signals.at_once)
        while time.monotonic() < deadline and before == (self._signals.requested, self._signals.at_once):
            self._copy()
            time.sleep(SLICE_SECONDS)

    def _copy(self, *, all_of_it: bool = False) -> None:
        if self._show:
            self._tail.copy(all_of_it=all_of_it)

    def _report(self, state: JobState) -> None:
        if self._show and state != self._shown and state.phase != Phase.ENDED:
            reason = f" ({state.reason})" if state.reason else ""
            log.info("%s job %s: %s%s", self._scheduler.title, self._id, state.name.lower().replace("_", " "), reason)
        self._shown = state


def conclude(job: Job, job_id: str, state: JobState | None, scheduler: Scheduler, signals: StopSignals) -> Result:
    """Returns the exit status of a job that has ended, and the text to print about it."""
    if (result := job.result) is not None:
        return result
    title = scheduler.title
    if signals.requested:
        text = interrupted_text(job.spec.stage, signals.number)
        if state is None:
            text += f" {title}'s controller does not respond, so job {job_id} may still run; it stops when it finds itself abandoned."
        return Result(128 + signals.number, text)
    name = "" if state is None else state.name
    subject = f"reelnest: error: {title} job {job_id}"
    if name == "CANCELLED":
        return Result(1, f"{subject} was cancelled, but not by this command. The same command resumes from the last checkpoint.")
    if name in RETRIED:
        happened = f"ended in state {name}" if name else "is unknown to the controller now and recorded no result"
        return Result(os.EX_TEMPFAIL, f"{subject} {happened}. The same command resumes from the last checkpoint.")
    last = _last_line(job.messages) or "It printed nothing: does every node reach the checkout under the same path?"
    if name == "OUT_OF_MEMORY":
        last = f"Raise {scheduler.memory_setting}."
    return Result(1, f"{subject} ended in state {name}, before its processes recorded a result.\n{last} ({os.fspath(job.messages)})")


def _last_line(path: Path) -> str | None:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return None
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
