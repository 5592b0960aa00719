"""What each launch used: its time in the queue, its time with GPUs, and what that cost. One line for each launch, in `work/usage.jsonl`."""

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reelnest.atomic_files import write_json
from reelnest.settings import Kubernetes, Launch, Slurm

FILE = Path("work/usage.jsonl")
VARIABLE = "REELNEST_USAGE"
"""Environment variable with the stage's holding, for the launcher of a stage that is not a job."""
HOUR = 3600.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holding:
    """What a launch holds while it runs."""

    stage: str
    gpus: int
    gpu_hour_price: float | None
    """None if the price is not in `launch.prices`."""

    def used(self, queued_seconds: float, running_seconds: float) -> "Usage":
        """Returns the usage of a launch that has ended."""
        gpu_hours = self.gpus * running_seconds / HOUR
        cost = None if self.gpu_hour_price is None else gpu_hours * self.gpu_hour_price
        return Usage(self.stage, queued_seconds, running_seconds, gpu_hours, cost)


@dataclass(frozen=True)
class Usage:
    """What a launch used, or all launches of a stage in a run."""

    stage: str
    queued_seconds: float
    running_seconds: float
    gpu_hours: float
    cost: float | None
    """In the currency of `launch.prices`."""

    def append(self, root: Path) -> None:
        """Adds the launch to the file of a checkout."""
        path = root / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            # A kill or a full disk may have cut the last line short, so each begins with a new one.
            file.write(f"\n{json.dumps(asdict(self))}\n")


class Meter:
    """Measures how long a job waits and runs. A file holds the times, so that a restarted command continues them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = {"queued": 0.0, "running": 0.0, "at": time.time(), "is_running": False}
        with suppress(OSError, ValueError):
            self._values |= json.loads(path.read_text(encoding="utf-8"))

    def note(self, *, is_running: bool) -> None:
        """Adds the time since the last call to the phase that the job was in then."""
        now = time.time()
        self._values["running" if self._values["is_running"] else "queued"] += max(0.0, now - self._values["at"])
        self._values |= {"at": now, "is_running": is_running}
        write_json(self._path, self._values)

    def usage(self, holding: Holding) -> Usage:
        """Returns the usage up to the last call."""
        return holding.used(self._values["queued"], self._values["running"])


def holding_of(launch: Launch, stage: str, settings: Slurm | Kubernetes, shape: Mapping[str, Any], template: Mapping[str, Any]) -> Holding:
    """Returns what a stage holds. `shape` is the contents of `launch.config`, `template` those of a Kubernetes job."""
    nodes = int(shape.get("num_machines", 1))
    gpus = 0 if shape.get("use_cpu") else int(shape["num_processes"])
    kind: str = launch.backend
    if isinstance(settings, Kubernetes):
        gpus = nodes * (_gpus_of(template) if settings.gpus is None else settings.gpus)
    elif launch.backend == "slurm":
        requests = [text for text in (settings.gres or "").split(",") if text.partition(":")[0] == "gpu"]
        if settings.gpus_per_node is not None:
            requests = str(settings.gpus_per_node).split(",")
        gpus = nodes * sum(map(_count, requests)) if requests else gpus
        kind = settings.partition if settings.partition in launch.prices else kind
    return Holding(stage, gpus, launch.prices.get(kind))


def read_usage(root: Path) -> list[Usage]:
    """Returns the usage of each stage since the checkout was made, in the order of their first launches.

    A line that is cut short is left out.
    """
    path = root / FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    stages: dict[str, list[Usage]] = {}
    for line in filter(None, lines):
        try:
            launch = Usage(**json.loads(line))
        except (ValueError, TypeError):  # the results of a run must not be lost for it
            log.warning("%s: a launch is left out, because its line is cut short: %s", path, line[:200])
            continue
        stages.setdefault(launch.stage, []).append(launch)
    return [total(used, stage) for stage, used in stages.items()]


def total(used: Iterable[Usage], name: str = "total") -> Usage:
    """Returns the sums over launches or stages. The cost is None if a price is missing for GPUs that were used."""
    launches = list(used)
    known = [launch.cost for launch in launches if launch.cost is not None]
    is_known = all(launch.cost is not None or not launch.gpu_hours for launch in launches) and bool(known)
    return Usage(
        name,
        sum(launch.queued_seconds for launch in launches),
        sum(launch.running_seconds for launch in launches),
        sum(launch.gpu_hours for launch in launches),
        sum(known) if is_known else None,
    )


def append_local(started: float) -> None:
    """Adds the launch of this process to the checkout's file, if it is that of a stage."""
    text = os.environ.get(VARIABLE)
    if text:
        Holding(**json.loads(text)).used(0.0, time.monotonic() - started).append(Path())


def _count(request: str) -> int:
    """Returns the number in a request to SLURM, such as 8 in `gpu:a100:8`, and 1 in `gpu:a100`."""
    number = request.rpartition(":")[2]
    return int(number) if number.isdecimal() else 1


def _gpus_of(template: Mapping[str, Any]) -> int:
    container = template["spec"]["template"]["spec"]["containers"][0]
    return int(((container.get("resources") or {}).get("limits") or {}).get("nvidia.com/gpu", 0))
