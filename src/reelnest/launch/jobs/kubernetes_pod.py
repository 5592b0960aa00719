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
from pathlib import Path
from types import FrameType

from reelnest.atomic_files import write_json
from reelnest.errors import ReelnestError
from reelnest.launch.failures import FOLDER_VARIABLE, NODE_VARIABLE, UNREPORTED_STATUS, read_outcomes
from reelnest.launch.jobs.job import Job, Result
from reelnest.launch.jobs.kubernetes_manifest import ATTEMPT, INTERRUPTED_STATUS, POD_IP
from reelnest.launch.jobs.nodes import (
    PEERS_SECONDS,
    POLL_SECONDS,
    Abandoned,
    Nodes,
    free_port,
    launcher_command,
    launcher_variables,
    write_result,
)
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
        self._nodes = Nodes(self._attempt, self._spec.nodes, self._settings.lost_node_seconds)
        self._signalled = False
        self._copy: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Runs the launcher to its end. Returns the pod's exit status."""
        signal.signal(signal.SIGTERM, self._on_signal)
        (self._attempt / "failures").mkdir(parents=True, exist_ok=True)
        main = self._meet()
        if main is None:
            return self._end_of_job()
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
        command = launcher_command(spec, address, port)
        variables = {**os.environ, **launcher_variables(spec, None, os.environ)}
        variables |= {NODE_VARIABLE: str(self._number), FOLDER_VARIABLE: str(self._attempt / "failures")}
        if self._number > 0:
            return subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL)
        launcher = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._copy = subprocess.Popen(["tee", "--append", str(self._job.log)], stdin=launcher.stdout)
        return launcher

    def _wait(self, launcher: subprocess.Popen[bytes]) -> None:
        """Waits for the launcher, passes stop requests on, and stops it if another pod failed, was interrupted or is lost."""
        stopping: float | None = None
        while launcher.poll() is None:
            now = time.monotonic()
            self._nodes.look()
            if self._should_stop() or self._nodes.are_broken:
                if stopping is None:
                    stopping = now
                    launcher.terminate()
                if now - stopping > self._spec.grace_seconds + HANGING_SECONDS:
                    return
            time.sleep(POLL_SECONDS)

    def _conclude(self) -> int:
        """Waits for the other pods. The first one records the result."""
        nodes = self._nodes
        nodes.look()
        own = nodes.outcomes.get(self._number)
        is_first = self._number == 0
        if not is_first and own is not None and own.succeeded:
            return 0
        longest = PEERS_SECONDS + self._spec.grace_seconds + HANGING_SECONDS + (0.0 if is_first else CONCLUDING_SECONDS)
        while self._job.result is None and not (is_first and nodes.have_ended):
            if nodes.has_lost or nodes.seconds_since_failure > longest or (self._signalled and not is_first):
                break
            time.sleep(POLL_SECONDS)
            nodes.look()
        return self._end_of_job()

    def _end_of_job(self) -> int:
        """Records the result, in the first pod. Returns this pod's exit status."""
        is_stopped = self._job.stop_requested or self._abandoned()
        outcome = self._nodes.outcome(is_stopped=is_stopped, is_interrupted=bool(self._files("interrupted-")))
        if outcome is None:
            return INTERRUPTED_STATUS
        if self._number == 0:
            write_result(self._job, self._attempt, outcome)
        return 0 if outcome.succeeded else 1

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
