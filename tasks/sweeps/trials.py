"""The trials of a sweep: which settings were tried, and what came of each.

A file holds them, so that a sweep that was killed goes on where it was.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from reelnest.atomic_files import write_json

TrialState = Literal["running", "completed", "failed"]


@dataclass
class Trial:
    """Settings, and the run that tries them."""

    number: int
    settings: dict[str, Any]
    state: TrialState = "running"
    attempt: int = 0
    """How many runs were cut off before this one."""
    run: str | None = None
    """The flow run's id; None until it is made."""
    value: float | None = None
    """The metric on the validation split."""
    mlflow_run: str | None = None
    why: str = ""
    """What a failed one ended with."""


@dataclass
class Trials:
    """All of a sweep. `save` after each change: what is not in the file did not happen."""

    path: Path
    found: list[Trial] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Trials":
        """Those of an earlier process; none where there was none."""
        if not path.is_file():
            return cls(path)
        return cls(path, [Trial(**record) for record in json.loads(path.read_text(encoding="utf-8"))])

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.records())

    def records(self) -> list[dict[str, Any]]:
        """The trials as JSON."""
        return [asdict(trial) for trial in self.found]

    def running(self) -> list[Trial]:
        """Those whose end is not known."""
        return [trial for trial in self.found if trial.state == "running"]

    def best(self) -> Trial | None:
        """The one with the highest value, the first of several; None while none is completed."""
        completed = [trial for trial in self.found if trial.value is not None]
        return max(completed, key=lambda trial: trial.value or 0.0, default=None)
