"""The trials of a sweep: their settings and results.

They are stored in a file, so that a killed sweep can continue.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from reelnest.atomic_files import write_json

TrialState = Literal["running", "completed", "failed"]


@dataclass
class Trial:
    """Settings and the run that tries them."""

    number: int
    settings: dict[str, Any]
    state: TrialState = "running"
    attempt: int = 0
    """How many runs of this trial died before the current one."""
    run: str | None = None
    """The flow run's id; None until it is started."""
    value: float | None = None
    """The metric on the validation split."""
    mlflow_run: str | None = None
    why: str = ""
    """Why the trial failed."""


@dataclass
class Trials:
    """All trials of a sweep. Call `save` after each change, so that the file is always current."""

    path: Path
    trials: list[Trial] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Trials":
        """Reads the trials of an earlier process; none if the file does not exist."""
        if not path.is_file():
            return cls(path)
        return cls(path, [Trial(**record) for record in json.loads(path.read_text(encoding="utf-8"))])

    def save(self) -> None:
        """Writes the file atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.records())

    def records(self) -> list[dict[str, Any]]:
        """Returns the trials as JSON."""
        return [asdict(trial) for trial in self.trials]

    def running(self) -> list[Trial]:
        """Returns the trials that have not ended."""
        return [trial for trial in self.trials if trial.state == "running"]

    def best(self) -> Trial | None:
        """Returns the trial with the highest value, the first of ties; None if none is completed."""
        completed = [trial for trial in self.trials if trial.value is not None]
        return max(completed, key=lambda trial: trial.value or 0.0, default=None)
