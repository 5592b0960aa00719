"""A job and its files, through which the stage and the job's nodes communicate. They are on storage that both can reach.

A job's folder is `work/jobs/NAME/`. The name depends on the checkout and the stage, so a restarted stage looks at the same folder.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reelnest.atomic_files import write_json

JOBS = Path("work/jobs")
MARKS = "REELNEST_MARKS"
"""The variable by which the guard of a flow (tasks/process/guard.py) finds processes to end. Only its follower ends a job."""
FOLLOWED_SECONDS = 120.0
"""A job whose heartbeat is older than this has no follower."""
MOST_FOLDERS = 20
"""How many folders of ended jobs stay, with their logs."""


@dataclass(frozen=True)
class JobSpec:
    """What a job runs. All paths are absolute."""

    root: str
    """The checkout, in which the stage runs."""
    module: str
    arguments: tuple[str, ...]
    """Of the module's `main()`."""
    python: str
    options: tuple[str, ...]
    """Of `accelerate launch`, the same on all nodes."""
    nodes: int
    processes: int
    """Over all nodes."""
    grace_seconds: float
    inputs: str
    """A digest of what the job reads: settings, code, data. A stage with other inputs does not follow the job."""
    settings: dict[str, Any]
    """The settings of the backend, such as `launch.slurm`."""
    backend: str = "slurm"
    holding: dict[str, Any] = field(default_factory=dict)
    """What the job holds while it runs, as `reelnest.launch.usage.Holding`."""

    @property
    def poll_seconds(self) -> float:
        """How often the job's state is asked for."""
        return float(self.settings["poll_seconds"])

    @property
    def stage(self) -> str:
        """The name of the stage."""
        return self.module.rpartition(".")[2]

    @property
    def name(self) -> str:
        """The job's name on the cluster."""
        key = hashlib.sha256(json.dumps([self.root, self.module, self.arguments]).encode()).hexdigest()[:16]
        return f"reelnest-{self.stage}-{key}"

    @classmethod
    def from_json(cls, text: str) -> "JobSpec":
        """Reads what `to_json` returned."""
        values = json.loads(text)
        return cls(**{**values, "arguments": tuple(values["arguments"]), "options": tuple(values["options"])})

    def to_json(self) -> str:
        """Returns the specification as one line of JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Result:
    """How a job ended: its exit status, and the text to print."""

    status: int
    text: str


def interrupted_too_often(cluster: str, job_id: str, times: int) -> Result:
    """Returns the result of a job that may not start again. `cluster` is the title of its scheduler."""
    text = f"reelnest: error: {cluster} job {job_id} was interrupted {times} times (launch.{cluster.lower()}.requeues)."
    return Result(os.EX_TEMPFAIL, f"{text} The same command resumes from the last checkpoint.")


class Job:
    """The files of a job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.txt"
        """What the stage prints."""
        self.messages = folder / "messages.txt"
        """What the cluster prints."""
        self.usage = folder / "usage.json"
        """How long the job waited and ran."""
        self.lock = folder.with_name(f"{folder.name}.lock")
        """Held by the command that follows the job."""
        self._spec, self._id, self._result = folder / "spec.json", folder / "id.json", folder / "result.json"
        self._stop, self._heartbeat = folder / "stop", folder / "heartbeat"

    @property
    def spec(self) -> JobSpec:
        """What the job runs."""
        return JobSpec.from_json(self._spec.read_text(encoding="utf-8"))

    @property
    def spec_or_none(self) -> JobSpec | None:
        """What the job runs; None if its folder does not say so in this version's form."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            return self.spec
        return None

    @property
    def id(self) -> str | None:
        """The cluster's id of the job; None before it is submitted."""
        values = _read(self._id)
        return None if values is None else str(values["id"])

    def write_id(self, job_id: str) -> None:
        """Records that the job is submitted."""
        write_json(self._id, {"id": job_id})

    def begin(self, spec: JobSpec) -> None:
        """Empties the folder for a new job."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.log.touch()
        self.beat()
        write_json(self._spec, asdict(spec))

    def is_of(self, spec: JobSpec) -> bool:
        """Returns whether the folder is of a job with the same inputs."""
        own = self.spec_or_none
        return own is not None and own.inputs == spec.inputs

    def beat(self) -> None:
        """Shows the job, and followers on other machines, that its command still runs."""
        self._heartbeat.write_text(socket.gethostname(), encoding="utf-8")

    @property
    def is_followed_elsewhere(self) -> bool:
        """Whether a command on another machine follows the job. Locks of other machines are unknown on some file systems."""
        clock = self.folder / "clock"  # its time is that of the file system, as the heartbeat's
        try:
            host = self._heartbeat.read_text(encoding="utf-8")
            clock.touch()
            return host != socket.gethostname() and clock.stat().st_mtime - self._heartbeat.stat().st_mtime < FOLLOWED_SECONDS
        except OSError:
            return False

    @property
    def heartbeat(self) -> float | None:
        """Changes while the job's command runs."""
        with contextlib.suppress(OSError):
            return self._heartbeat.stat().st_mtime
        return None

    def request_stop(self) -> None:
        """Notes that the command wants the job to end, so that it is not queued again."""
        self._stop.touch()

    @property
    def stop_requested(self) -> bool:
        """Whether the command wants the job to end."""
        # Listed, because a network file system may cache that a file does not exist.
        with contextlib.suppress(OSError):
            return self._stop in set(self.folder.iterdir())
        return False

    @property
    def result(self) -> Result | None:
        """How the job ended; None while it runs, and if it was ended from outside."""
        values = _read(self._result)
        return None if values is None else Result(**values)

    def write_result(self, result: Result) -> None:
        """Records how the job ended."""
        write_json(self._result, asdict(result))

    def attempt(self, number: int) -> Path:
        """Returns the folder of one attempt: a job that was queued again starts the next one."""
        return self.folder / f"attempt-{number}"


def remove_old(folder: Path) -> None:
    """Removes the oldest folders of jobs that have ended."""
    ended = [job for job in folder.glob("reelnest-*") if job.is_dir() and (job / "result.json").is_file()]
    for job in sorted(ended, key=lambda job: job.stat().st_mtime)[:-MOST_FOLDERS]:
        shutil.rmtree(job, ignore_errors=True)


def inputs_digest(texts: Iterable[str], folders: Sequence[Path]) -> str:
    """Returns a digest of texts and of the names, sizes and times of all files in folders."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{text}\0".encode())
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                status = path.stat()
                digest.update(f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values
