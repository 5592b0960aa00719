"""Training progress: for people, and as a file for other programs."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

from reelnest.progress import Activity
from reelnest.training.checkpoint.history import StepRow

SECONDS_BETWEEN_FILES = 1.0


class Progress:
    """The main process's progress in pairs, and `work/progress.json`, written at most once per second. Other processes have neither."""

    def __init__(self, path: Path | None, *, epochs: int, steps: int, pairs: int, done_pairs: int) -> None:
        self._path = path
        self._total = {"epochs": epochs, "steps": steps}
        self._started = time.monotonic()
        self._pairs = 0
        self._written = 0.0
        self._row: StepRow | None = None
        self._activity = Activity("training", pairs, "pair", done=done_pairs, shown=path is not None).__enter__()

    @property
    def pairs_per_second(self) -> float:
        """Pairs per second since this process started training."""
        return self._pairs / max(self.seconds, 1e-9)

    @property
    def seconds(self) -> float:
        """Seconds since this process started training, evaluations included."""
        return time.monotonic() - self._started

    def advance(self, epoch: int, step: int, pairs: int) -> None:
        """Adds a step's pairs."""
        self._pairs += pairs
        self._activity.advance(pairs)
        loss = [] if self._row is None else [f"loss {self._row.loss:.4f}"]
        self._activity.describe(
            ", ".join([f"step {step:,} of {self._total['steps']:,}", f"epoch {epoch} of {self._total['epochs']}", *loss])
        )
        if time.monotonic() - self._written >= SECONDS_BETWEEN_FILES:
            self._write(epoch, step)

    def show(self, row: StepRow) -> None:
        """Shows the loss of `row` from the next step on."""
        self._row = row

    def close(self, epoch: int, step: int) -> None:
        """Writes the final state and ends the display."""
        self._write(epoch, step)
        self._activity.__exit__()

    def _write(self, epoch: int, step: int) -> None:
        if self._path is None:
            return
        progress: dict[str, str | int | float | None] = {
            "stage": "train",
            "epoch": epoch,
            "step": step,
            "loss": self._row.loss if self._row else None,
            "pairs_per_second": round(self.pairs_per_second, 1),
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            **self._total,
        }
        # Replaced atomically but not flushed to disk: it has no use after a crash, and a flush per second costs time.
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_name(f".{self._path.name}.aside")
        aside.write_text(json.dumps(progress, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        aside.replace(self._path)
        self._written = time.monotonic()
