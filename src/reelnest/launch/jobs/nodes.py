"""What the processes of a job do alike on all clusters: notice that a node is lost or the job abandoned, and prepare a launcher."""

import os
import socket
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from random import SystemRandom

from reelnest.errors import ReelnestError
from reelnest.launch.failures import Outcome, beat_file
from reelnest.launch.jobs.job import Job, JobSpec

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


def launcher_variables(spec: JobSpec, cpus: int | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that the launchers need in addition to those of the job. `cpus`: of a node; None: all that it has."""
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


def statuses_of(outcomes: Iterable[Outcome]) -> dict[int, int]:
    """The exit statuses of all failed ranks of some nodes."""
    return {rank: status for outcome in outcomes for rank, status in outcome.statuses.items()}
