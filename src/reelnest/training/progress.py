"""How far training is: a bar for the person at the terminal, a file for those who watch from elsewhere."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from reelnest.training.checkpoint.history import StepRow

SECONDS_BETWEEN_FILES = 1.0


class Progress:
    """The main process's bar in pairs a second, and `work/progress.json`, replaced at most once a second. Other processes have neither."""

    def __init__(self, path: Path | None, *, epochs: int, steps: int, pairs: int, done_pairs: int) -> None:
        self._path = path
        self._total = {"epochs": epochs, "steps": steps}
        self._started = time.monotonic()
        self._pairs = 0
        self._written = 0.0
        self._row: StepRow | None = None
        # disable=None: silent where nobody looks at a terminal.
        self._bar = tqdm(
            desc="train", total=pairs, initial=done_pairs, unit="pairs", disable=None if path is not None else True, dynamic_ncols=True
        )

    @property
    def pairs_per_second(self) -> float:
        """Since this process started training."""
        return self._pairs / max(self.seconds, 1e-9)

    @property
    def seconds(self) -> float:
        """Since this process started training, evaluations included."""
        return time.monotonic() - self._started

    def advance(self, epoch: int, step: int, pairs: int) -> None:
        """Counts a step's pairs."""
        self._pairs += pairs
        self._bar.update(pairs)
        if time.monotonic() - self._written >= SECONDS_BETWEEN_FILES:
            self._write(epoch, step)

    def show(self, row: StepRow) -> None:
        """Takes over the last known loss."""
        self._row = row
        self._bar.set_postfix(epoch=row.epoch, loss=f"{row.loss:.4f}", refresh=False)

    def close(self, epoch: int, step: int) -> None:
        """Writes the last state and ends the bar."""
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
        # Replaced in one step, but not flushed to disk: it is of no use after a crash, and a flush a second is not free.
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_name(f".{self._path.name}.aside")
        aside.write_text(json.dumps(progress, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        aside.replace(self._path)
        self._written = time.monotonic()
