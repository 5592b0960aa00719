"""Training progress: a bar in the terminal and a file for other programs."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from reelnest.training.checkpoint.history import StepRow

SECONDS_BETWEEN_FILES = 1.0


class Progress:
    """The main process's progress bar in pairs, and `work/progress.json`, written at most once per second. Other processes have neither."""

    def __init__(self, path: Path | None, *, epochs: int, steps: int, pairs: int, done_pairs: int) -> None:
        self._path = path
        self._total = {"epochs": epochs, "steps": steps}
        self._started = time.monotonic()
        self._pairs = 0
        self._written = 0.0
        self._row: StepRow | None = None
        # disable=None: no bar without a terminal.
        self._bar = tqdm(
            desc="train", total=pairs, initial=done_pairs, unit="pairs", disable=None if path is not None else True, dynamic_ncols=True
        )

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
        self._bar.update(pairs)
        if time.monotonic() - self._written >= SECONDS_BETWEEN_FILES:
            self._write(epoch, step)

    def show(self, row: StepRow) -> None:
        """Shows the loss of `row`."""
        self._row = row
        self._bar.set_postfix(epoch=row.epoch, loss=f"{row.loss:.4f}", refresh=False)

    def close(self, epoch: int, step: int) -> None:
        """Writes the final state and closes the bar."""
        self._write(epoch, step)
        self._bar.close()

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
