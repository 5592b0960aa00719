"""A job on a cluster that a test controls: what the follower does, prints and returns."""

import errno
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from reelnest.launch import usage
from reelnest.launch.jobs import follower, following
from reelnest.launch.jobs.follower import Follower, end_jobs_of
from reelnest.launch.jobs.job import Job, JobSpec, Result
from reelnest.launch.jobs.scheduler import JobState, Phase, SchedulerUnreachable
from reelnest.launch.stop_signals import StopSignals

RUNNING = JobState(Phase.RUNNING, "RUNNING")
WAITING = JobState(Phase.WAITING, "PENDING", "Resources")


class PlayedScheduler:
    """A cluster with one job, whose states are given. An exception or a function among them happens instead of a response."""

    title = "SLURM"
    memory_setting = "launch.slurm.mem"

    def __init__(self, *states: JobState | Exception | Callable[[], JobState], running: str | None = None) -> None:
        self.calls: list[str] = []
        self._states, self._running = list(states), running
        self.interruptions = 0
        """How often the job is started again."""

    def submit(self, _job: Job) -> str:
        self.calls.append("submit")
        return "7"

    def release(self, job_id: str) -> None:
        self.calls.append(f"release {job_id}")

    def find(self, _name: str) -> str | None:
        return self._running

    def state(self, _job_id: str) -> JobState:
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        if isinstance(state, Exception):
            raise state
        return state if isinstance(state, JobState) else state()

    def stop(self, job_id: str) -> None:
        self.calls.append(f"stop {job_id}")

    def end(self, job_id: str) -> None:
        self.calls.append(f"end {job_id}")
        self._running = None

    def restart(self, _job: Job, job_id: str) -> bool:
        self.interruptions -= 1
        if self.interruptions >= 0:
            self.calls.append(f"restart {job_id}")
        return self.interruptions >= 0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "SLICE_SECONDS", 0.001)
    monkeypatch.setattr(following, "REPEAT_SECONDS", 0.0)
    monkeypatch.setattr(following, "UNKNOWN_SECONDS", 0.05)


def specification(root: Path, inputs: str = "i", grace_seconds: float = 100.0) -> JobSpec:
    settings = {"poll_seconds": 0.002}
    return JobSpec(str(root), "reelnest.stages.train", (), "python", (), 1, 2, grace_seconds, inputs, settings)


def job_of(spec: JobSpec) -> Job:
    return Job(Path(spec.root).resolve() / "work" / "jobs" / spec.name)


def ends(spec: JobSpec, name: str, result: Result | None = None) -> Callable[[], JobState]:
    """The state of a job that ends, after it has recorded its result."""

    def state() -> JobState:
        if result is not None:
            job_of(spec).write_result(result)
        return JobState(Phase.ENDED, name)

    return state


def run(spec: JobSpec, scheduler: PlayedScheduler, signals: StopSignals | None = None) -> Result:
    return Follower(spec, scheduler, signals or StopSignals()).run()


def test_a_job_is_released_only_after_its_id_is_recorded(tmp_path: Path) -> None:
    spec = specification(tmp_path)
    scheduler = PlayedScheduler(WAITING, RUNNING, ends(spec, "COMPLETED", Result(0, "")))
    recorded = []
    scheduler.release = lambda _job_id: recorded.append(job_of(spec).id)  # type: ignore[method-assign]  # it is recorded
    assert run(spec, scheduler) == Result(0, "")
    assert recorded == ["7"]


def test_the_result_of_the_job_is_that_of_the_stage(tmp_path: Path) -> None:
    spec = specification(tmp_path)
    result = Result(75, "reelnest: error: stopped after step 3")
    assert run(spec, PlayedScheduler(RUNNING, ends(spec, "FAILED", result))) == result


def test_the_log_is_printed_as_it_comes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = specification(tmp_path)

    def writing() -> JobState:
        with job_of(spec).log.open("a") as log:
            log.write("step 1\nstep ")
        return RUNNING

    run(spec, PlayedScheduler(writing, RUNNING, ends(spec, "COMPLETED", Result(0, ""))))
    assert "step 1\nstep " in capsys.readouterr().err


def test_a_controller_that_is_away_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = specification(tmp_path)
    away = SchedulerUnreachable("SLURM's controller does not respond.")
    scheduler = PlayedScheduler(RUNNING, away, away, RUNNING, ends(spec, "COMPLETED", Result(0, "")))
    assert run(spec, scheduler).status == 0
    assert caplog.text.count("does not respond") == 1


def test_a_result_counts_if_the_controller_stays_away(tmp_path: Path) -> None:
    spec = specification(tmp_path)
    away = SchedulerUnreachable("away")

    def finished() -> JobState:
        job_of(spec).write_result(Result(0, ""))
        raise away

    assert run(spec, PlayedScheduler(RUNNING, finished, away)).status == 0


def test_a_job_that_is_queued_again_has_not_ended(tmp_path: Path) -> None:
    spec = specification(tmp_path)
    between = JobState(Phase.ENDED, "NODE_FAIL")
    scheduler = PlayedScheduler(RUNNING, between, WAITING, RUNNING, ends(spec, "COMPLETED", Result(0, "")))
    assert run(spec, scheduler).status == 0


def test_an_interrupted_job_that_the_cluster_does_not_start_again_is_started_again(tmp_path: Path) -> None:
    spec = specification(tmp_path)
    failed = JobState(Phase.ENDED, "FAILED")
    scheduler = PlayedScheduler(RUNNING, failed, failed, WAITING, RUNNING, ends(spec, "COMPLETED", Result(0, "")))
    scheduler.interruptions = 1
    assert run(spec, scheduler).status == 0
    assert scheduler.calls == ["submit", "release 7", "restart 7"]


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("CANCELLED", 1, "was cancelled, but not by this command"),
        ("NODE_FAIL", 75, "ended in state NODE_FAIL. The same command resumes"),
        ("PREEMPTED", 75, "ended in state PREEMPTED"),
        ("TIMEOUT", 75, "ended in state TIMEOUT"),
        ("", 75, "is unknown to the controller now"),
        ("OUT_OF_MEMORY", 1, "launch.slurm.mem"),
        ("FAILED", 1, "ended in state FAILED"),
    ],
)
def test_the_state_of_a_job_without_a_result_is_put_into_words(name: str, status: int, text: str, tmp_path: Path) -> None:
    result = run(specification(tmp_path), PlayedScheduler(RUNNING, JobState(Phase.ENDED, name)))
    assert result.status == status
    assert text in result.text


def test_what_slurm_printed_is_in_the_error_of_a_job_that_could_not_start(tmp_path: Path) -> None:
    spec = specification(tmp_path)

    def failing() -> JobState:
        job_of(spec).messages.write_text("module: command not found\n\n")
        return JobState(Phase.ENDED, "FAILED")

    assert "\nmodule: command not found (" in run(spec, PlayedScheduler(failing)).text


def test_a_stop_request_is_repeated_and_the_job_s_result_is_returned(tmp_path: Path) -> None:
    spec = specification(tmp_path)
    result = Result(75, "stopped after step 3")
    signals = StopSignals()

    def stopping() -> JobState:
        signals._on_signal(signal.SIGTERM, None)
        return RUNNING

    scheduler = PlayedScheduler(RUNNING, stopping, RUNNING, RUNNING, ends(spec, "FAILED", result))
    assert run(spec, scheduler, signals) == result
    assert scheduler.calls == ["submit", "release 7", "stop 7", "stop 7", "stop 7"]
    assert job_of(spec).stop_requested


def test_a_waiting_job_is_ended_by_a_stop_request(tmp_path: Path) -> None:
    spec, signals = specification(tmp_path), StopSignals()

    def stopping() -> JobState:
        signals._on_signal(signal.SIGINT, None)
        return WAITING

    scheduler = PlayedScheduler(stopping, JobState(Phase.ENDED, "CANCELLED"))
    assert run(spec, scheduler, signals).status == 128 + signal.SIGINT
    assert scheduler.calls[2:] == ["end 7"]


@pytest.mark.parametrize("second", [None, signal.SIGINT])
def test_a_job_is_killed_at_the_end_of_the_grace_period_or_at_a_second_ctrl_c(second: signal.Signals | None, tmp_path: Path) -> None:
    spec, signals = specification(tmp_path, grace_seconds=100.0 if second else 0.01), StopSignals()

    def stopping() -> JobState:
        signals._on_signal(signal.SIGTERM, None)
        return RUNNING

    def again() -> JobState:
        if second:
            signals._on_signal(second, None)
        return RUNNING

    scheduler = PlayedScheduler(stopping, again, *[RUNNING] * 20, JobState(Phase.ENDED, "CANCELLED"))
    assert run(spec, scheduler, signals).status == 128 + signal.SIGTERM
    assert "end 7" in scheduler.calls


def test_a_signal_before_there_is_a_job_starts_none(tmp_path: Path) -> None:
    scheduler = PlayedScheduler(RUNNING)
    assert run(specification(tmp_path), scheduler, StopSignals(signal.SIGTERM)).status == 128 + signal.SIGTERM
    assert scheduler.calls == []


def test_a_restarted_command_follows_the_job_with_the_same_inputs(tmp_path: Path) -> None:
    spec = specification(tmp_path)
    job_of(spec).begin(spec)
    scheduler = PlayedScheduler(RUNNING, ends(spec, "COMPLETED", Result(0, "")), running="5")
    assert run(spec, scheduler).status == 0
    assert scheduler.calls == ["release 5"]  # the earlier command may have been killed before its release


def test_a_restarted_command_ends_the_job_with_other_inputs_and_submits_its_own(tmp_path: Path) -> None:
    before, spec = specification(tmp_path), specification(tmp_path, inputs="j")
    job_of(before).begin(before)
    scheduler = PlayedScheduler(
        WAITING, JobState(Phase.ENDED, "CANCELLED"), JobState(Phase.ENDED, "CANCELLED"), ends(spec, "COMPLETED", Result(0, "")), running="5"
    )
    assert run(spec, scheduler).status == 0
    assert scheduler.calls == ["end 5", "submit", "release 7"]


@pytest.mark.parametrize("text", [None, '{"root": "of another version"}'])
def test_a_job_in_the_queue_whose_folder_says_nothing_is_ended(text: str | None, tmp_path: Path) -> None:
    spec = specification(tmp_path)
    if text is not None:
        job_of(spec).folder.mkdir(parents=True)
        (job_of(spec).folder / "spec.json").write_text(text)
    ended = JobState(Phase.ENDED, "CANCELLED")
    scheduler = PlayedScheduler(WAITING, ended, ended, ends(spec, "COMPLETED", Result(0, "")), running="5")
    assert run(spec, scheduler).status == 0
    assert scheduler.calls == ["end 5", "submit", "release 7"]


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "log.txt")


def test_a_disk_that_is_full_for_a_while_does_not_end_the_following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(specification(tmp_path), holding={"stage": "train", "gpus": 1, "gpu_hour_price": None})
    result = Result(0, "")

    def filling() -> JobState:
        monkeypatch.setattr(Job, "beat", full_disk)
        monkeypatch.setattr(usage, "write_json", full_disk)
        monkeypatch.setattr(usage.Usage, "append", full_disk)
        return RUNNING

    assert run(spec, PlayedScheduler(filling, RUNNING, ends(spec, "COMPLETED", result))) == result


def test_a_full_disk_at_the_submission_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(follower, "scheduler_of", lambda _spec: PlayedScheduler(RUNNING))
    monkeypatch.setattr(follower, "prepare_process", lambda: None)
    monkeypatch.setattr(StopSignals, "install", lambda _: None)
    monkeypatch.setattr(Job, "begin", full_disk)
    assert follower.main([specification(tmp_path).to_json()]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("reelnest: error: log.txt: the disk is full")


def test_jobs_of_a_killed_run_are_ended_before_its_worktree_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, worktree, active = tmp_path / "jobs", tmp_path / "killed", tmp_path / "active"
    shared.mkdir()
    for root in (worktree, active):
        (root / "work").mkdir(parents=True)
        (root / "work" / "jobs").symlink_to(shared)
        job_of(specification(root)).begin(specification(root))
    scheduler = PlayedScheduler(RUNNING, RUNNING, ends(specification(worktree), "FAILED"), running="7")
    monkeypatch.setattr(follower, "scheduler_of", lambda _spec: scheduler)
    assert end_jobs_of(worktree)
    assert scheduler.calls[0] == "stop 7"  # it saves
    assert job_of(specification(worktree)).stop_requested
    assert not job_of(specification(active)).stop_requested


def test_jobs_that_may_be_followed_or_cannot_be_reached_are_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(specification(tmp_path))
    job.begin(specification(tmp_path))
    monkeypatch.setattr(follower, "scheduler_of", lambda _spec: scheduler)
    scheduler = PlayedScheduler(RUNNING, running="7")
    with FileLock(job.lock):
        assert not end_jobs_of(tmp_path)
    (job.folder / "heartbeat").write_text("another-machine")
    assert not end_jobs_of(tmp_path)
    job.beat()

    def unreachable(_name: str) -> str | None:
        raise SchedulerUnreachable("no response")

    monkeypatch.setattr(scheduler, "find", unreachable)
    with pytest.raises(SchedulerUnreachable):
        end_jobs_of(tmp_path)
    assert scheduler.calls == []
