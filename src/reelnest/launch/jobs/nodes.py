"""What the processes of a job do alike on all clusters: start a launcher, follow all nodes, and decide how the job ended."""

import os
import socket
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from random import SystemRandom

from reelnest.errors import ReelnestError
from reelnest.launch.failures import Outcome, beat_file, read_failures, read_outcomes, result_of
from reelnest.launch.jobs.job import Job, JobSpec, Result

POLL_SECONDS = 0.5
PEERS_SECONDS = 15.0
"""How long the other nodes may run on after one has failed. They usually fail by themselves, because they lose their connection to it."""


class Abandoned:
    """Whether the command that started the job has been gone for too long.

    It compares the changes of a file with its own clock, because the clocks of two machines may differ.
    """

    def __init__(self, job: Job, minutes: float | None) -> None:
        self._job, self._seconds = job, None if minutes is None else 60 * minutes
        self._last, self._since = job.heartbeat, time.monotonic()

    def __call__(self) -> bool:
        """Looks at the heartbeat."""
        heartbeat = self._job.heartbeat
        if heartbeat != self._last:
            self._last, self._since = heartbeat, time.monotonic()
        return self._seconds is not None and time.monotonic() - self._since > self._seconds


class LostNodes:
    """Whether a node has shown no life for too long. The others would wait for it forever.

    It counts its own calls, one each POLL_SECONDS, because a job may be suspended, and clocks of two machines may differ.
    """

    def __init__(self, attempt: Path, nodes: int, seconds: float) -> None:
        self._attempt, self._seconds = attempt, seconds
        self._beats: dict[int, float] = dict.fromkeys(range(nodes), 0.0)
        self._silent = dict.fromkeys(range(nodes), 0.0)

    def __call__(self, ended: Collection[int]) -> bool:
        """Looks at the nodes that have not ended."""
        for node in self._beats.keys() - set(ended):
            try:
                beat = beat_file(self._attempt, node).stat().st_mtime
            except OSError:  # it has not started yet
                beat = 0.0
            self._silent[node] = self._silent[node] + POLL_SECONDS if beat == self._beats[node] else 0.0
            self._beats[node] = beat
        return any(silent > self._seconds for node, silent in self._silent.items() if node not in ended)


class Nodes:
    """What is known of the nodes of one attempt: how they ended, since when one has failed, and whether one is lost."""

    def __init__(self, attempt: Path, nodes: int, lost_seconds: float) -> None:
        self._attempt, self._nodes = attempt, nodes
        self._lost = LostNodes(attempt, nodes, lost_seconds)
        self._failed: float | None = None
        self.outcomes: dict[int, Outcome] = {}
        """How the nodes ended whose ranks have ended."""
        self.has_lost = False

    def look(self) -> None:
        """Reads what the nodes wrote. To be called each POLL_SECONDS."""
        self.outcomes = read_outcomes(self._attempt)
        self.has_lost = self._lost(self.outcomes)
        if self._failed is None and any(not outcome.succeeded for outcome in self.outcomes.values()):
            self._failed = time.monotonic()

    @property
    def have_ended(self) -> bool:
        """Whether the ranks of all nodes have ended."""
        return len(self.outcomes) == self._nodes

    @property
    def seconds_since_failure(self) -> float:
        """0 if no node has failed."""
        return 0.0 if self._failed is None else time.monotonic() - self._failed

    @property
    def are_broken(self) -> bool:
        """Whether the nodes that still run should be stopped."""
        return self.has_lost or self.seconds_since_failure > PEERS_SECONDS

    def outcome(self, *, is_stopped: bool, is_interrupted: bool = False) -> Outcome | None:
        """Returns how the job ended; None if it should start again. `is_stopped`: on request; `is_interrupted`: from outside."""
        if self.have_ended and all(outcome.succeeded for outcome in self.outcomes.values()):
            return Outcome({})
        if is_stopped:
            return Outcome(_statuses(self.outcomes.values()), "SIGTERM")
        # A node that was stopped because another one failed has no cause of its own.
        failed = [outcome for outcome in self.outcomes.values() if outcome.received is None and not outcome.succeeded]
        return Outcome(_statuses(failed)) if failed and self.have_ended and not is_interrupted else None


def write_result(job: Job, attempt: Path, outcome: Outcome) -> int:
    """Records how the job ended. Returns its exit status."""
    spec = job.spec
    status, text = result_of(spec.stage, outcome, read_failures(attempt / "failures"), Path(spec.root))
    job.write_result(Result(status, text))
    return status


def launcher_command(spec: JobSpec, address: str, port: int) -> list[str]:
    """Returns the command line of the launcher of each node. `address` and `port` are where the first process of all listens."""
    launcher = [spec.python, "-m", "reelnest.launch.launcher", str(spec.grace_seconds), *spec.options]
    meeting = ["--main_process_ip", address, "--main_process_port", str(port)]
    return [*launcher, *meeting, "-m", "reelnest.launch.rank", spec.module, *spec.arguments]


def launcher_variables(spec: JobSpec, cpus: int | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that the launchers need in addition to those of the job. `cpus`: of a node; None: all that it has."""
    variables = {"PYTHONUNBUFFERED": "1"}
    if "OMP_NUM_THREADS" not in environment:
        variables["OMP_NUM_THREADS"] = str(max(1, (cpus or os.cpu_count() or 1) * spec.nodes // spec.processes))
    interface = spec.settings.get("socket_interface")
    if interface is not None:
        variables |= {"NCCL_SOCKET_IFNAME": interface, "GLOO_SOCKET_IFNAME": interface}
    return variables


def free_port(first: int, last: int) -> int:
    """Returns a port of the range that no process of this node uses. Raises ReelnestError if all are used."""
    ports = list(range(first, last + 1))
    SystemRandom().shuffle(ports)
    for port in ports:
        with socket.socket() as listener:
            try:
                listener.bind(("", port))
            except OSError:
                continue
        return port
    raise ReelnestError(f"All ports from {first} to {last} (`ports` in launch) are used.")


def _statuses(outcomes: Iterable[Outcome]) -> dict[int, int]:
    return {rank: status for outcome in outcomes for rank, status in outcome.statuses.items()}
