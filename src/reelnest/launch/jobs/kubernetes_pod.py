"""Runs in each pod of a Kubernetes job: starts one launcher a pod, and in the first pod records how the job ended.

Usage, as the command of the container: `python -m reelnest.launch.jobs.kubernetes_pod FOLDER`

1. All pods meet in the job's folder. The first one writes its address there, where its first process will listen for the others.
2. Each pod runs its launcher. It notes SIGTERM from Kubernetes (an eviction, a preemption, the end of the job's time) in the folder, so
   that the other pods stop too and nobody takes it for a failure. A stop request of the follower is a file in the folder.
3. The first pod records the result from the outcomes of all pods. An interrupted job has none: the follower starts it again.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from reelnest.atomic_files import write_json
from reelnest.errors import ReelnestError
from reelnest.launch.failures import FOLDER_VARIABLE, NODE_VARIABLE, UNREPORTED_STATUS, Outcome, read_failures, read_outcomes, result_of
from reelnest.launch.jobs.job import Job, Result
from reelnest.launch.jobs.kubernetes_manifest import ATTEMPT, INTERRUPTED_STATUS, POD_IP
from reelnest.launch.jobs.nodes import PEERS_SECONDS, POLL_SECONDS, Abandoned, LostNodes, free_port, launcher_variables, statuses_of
from reelnest.settings import Kubernetes

HANGING_SECONDS = 5.0
"""How long a launcher may run on after the grace period, before it is killed."""
CONCLUDING_SECONDS = 10.0
"""How long the other pods wait for the first one to record the result, so that their failure does not end it before."""


class Pod:
    """One pod of one attempt of a job."""

    def __init__(self, job: Job, attempt: int, number: int, address: str) -> None:
        self._job, self._spec, self._number, self._address = job, job.spec, number, address
        self._settings = Kubernetes.model_validate(self._spec.settings)
        self._attempt = job.attempt(attempt)
        self._abandoned = Abandoned(job, self._settings.abandoned_minutes)
        self._lost = LostNodes(self._attempt, self._spec.nodes, self._settings.lost_node_seconds)
        self._signalled = False
        self._copy: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Runs the launcher to its end. Returns the pod's exit status."""
        signal.signal(signal.SIGTERM, self._on_signal)
        (self._attempt / "failures").mkdir(parents=True, exist_ok=True)
        main = self._meet()
        if main is None:
            return self._end_of_job({})
        launcher = self._start(*main)
        try:
            self._wait(launcher)
        finally:
            launcher.kill()  # if it hangs
            if self._copy is not None:
                self._copy.wait()
        if launcher.wait() == UNREPORTED_STATUS:
            return UNREPORTED_STATUS
        return self._conclude()

    def _meet(self) -> tuple[str, int] | None:
        """Returns where the first process of all listens, when all pods are there; None if the job should end before."""
        (self._attempt / f"arrived-{self._number}").touch()
        meeting = self._attempt / "address.json"
        while not self._should_stop():
            arrived = set(self._files("arrived-"))
            if self._number == 0 and len(arrived) == self._spec.nodes:
                port = free_port(*self._settings.ports)
                write_json(meeting, {"address": self._address, "port": port})
            if meeting in self._files("address"):
                values = json.loads(meeting.read_text(encoding="utf-8"))
                return str(values["address"]), int(values["port"])
            time.sleep(POLL_SECONDS)
        return None

    def _start(self, address: str, port: int) -> subprocess.Popen[bytes]:
        """Starts the launcher. The first pod's lines go to the job's log, and all lines to the pod's own."""
        spec = self._spec
        command = [spec.python, "-m", "reelnest.launch.launcher", str(spec.grace_seconds), *spec.options]
        command += ["--main_process_ip", address, "--main_process_port", str(port), "--machine_rank", str(self._number)]
        command += ["-m", "reelnest.launch.rank", spec.module, *spec.arguments]
        variables = {**os.environ, **launcher_variables(spec, None, os.environ)}
        variables |= {NODE_VARIABLE: str(self._number), FOLDER_VARIABLE: str(self._attempt / "failures")}
        if self._number > 0:
            return subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL)
        launcher = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._copy = subprocess.Popen(["tee", "--append", str(self._job.log)], stdin=launcher.stdout)
        return launcher

    def _wait(self, launcher: subprocess.Popen[bytes]) -> None:
        """Waits for the launcher, passes stop requests on, and stops it if another pod failed, was interrupted or is lost."""
        failed: float | None = None
        stopping: float | None = None
        while launcher.poll() is None:
            now = time.monotonic()
            outcomes = read_outcomes(self._attempt)
            if failed is None and any(not outcome.succeeded for outcome in outcomes.values()):
                failed = now
            if self._should_stop() or self._lost(outcomes) or (failed is not None and now - failed > PEERS_SECONDS):
                if stopping is None:
                    stopping = now
                    launcher.terminate()
                if now - stopping > self._spec.grace_seconds + HANGING_SECONDS:
                    return
            time.sleep(POLL_SECONDS)

    def _conclude(self) -> int:
        """Waits for the other pods. The first one records the result."""
        outcomes = read_outcomes(self._attempt)
        own = outcomes.get(self._number)
        if self._number > 0 and own is not None and own.succeeded:
            return 0
        longest = CONCLUDING_SECONDS if self._number > 0 else 0.0
        failed: float | None = None
        while self._job.result is None and not (self._number == 0 and len(outcomes) == self._spec.nodes):
            now = time.monotonic()
            if failed is None and any(not outcome.succeeded for outcome in outcomes.values()):
                failed = now
            waited = 0.0 if failed is None else now - failed
            if self._lost(outcomes) or waited > PEERS_SECONDS + self._spec.grace_seconds + HANGING_SECONDS + longest:
                break
            if self._number > 0 and self._signalled:
                break
            time.sleep(POLL_SECONDS)
            outcomes = read_outcomes(self._attempt)
        return self._end_of_job(outcomes)

    def _end_of_job(self, outcomes: Mapping[int, Outcome]) -> int:
        """Records the result, in the first pod. Returns this pod's exit status."""
        is_complete = len(outcomes) == self._spec.nodes
        # A pod that was stopped because another one failed has no cause of its own.
        failed = [outcome for outcome in outcomes.values() if outcome.received is None and not outcome.succeeded]
        if is_complete and all(outcome.succeeded for outcome in outcomes.values()):
            outcome = Outcome({})
        elif self._job.stop_requested or self._abandoned():
            outcome = Outcome(statuses_of(outcomes.values()), "SIGTERM")
        elif failed and is_complete and not self._files("interrupted-"):
            outcome = Outcome(statuses_of(failed))
        else:
            return INTERRUPTED_STATUS
        status, text = result_of(self._spec.stage, outcome, read_failures(self._attempt / "failures"), Path(self._spec.root))
        if self._number == 0:
            self._job.write_result(Result(status, text))
        return min(status, 1)

    def _should_stop(self) -> bool:
        return self._signalled or self._job.stop_requested or self._abandoned() or bool(self._files("interrupted-"))

    def _files(self, start: str) -> list[Path]:
        # Listed, because a network file system may cache that a file does not exist.
        return [path for path in self._attempt.iterdir() if path.name.startswith(start)]

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True
        if read_outcomes(self._attempt).get(self._number) is None and self._job.result is None:
            (self._attempt / f"interrupted-{self._number}").touch()


def main(folder: Path) -> int:
    """Returns the exit status of the pod."""
    job = Job(folder)
    environment = os.environ
    try:
        number = int(environment["JOB_COMPLETION_INDEX"])
        return Pod(job, int(environment[ATTEMPT]), number, environment[POD_IP]).run()
    except ReelnestError as error:
        job.write_result(Result(error.exit_status, f"reelnest: error: {error}"))
        return error.exit_status
    except Exception:
        traceback.print_exc()  # into the pod's log, whose end the follower shows
        raise


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
