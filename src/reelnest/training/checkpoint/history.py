"""Records each optimizer step without slowing it down."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reelnest.atomic_files import write_lines
from reelnest.errors import TrainingError
from reelnest.training.distributed import mean_over_processes


@dataclass(frozen=True)
class StepRow:
    """One line of `reports/training.csv`."""

    epoch: int
    """Starts at 1."""
    step: int
    """Completed optimizer steps, this one included."""
    loss: float
    """The weighted mean of the dims' losses, over all processes and accumulated batches."""
    losses: tuple[float, ...]
    """One per dim."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    temperature: float


class StepFigures(NamedTuple):
    """This process's record of a step, still on the device. The mean over processes is the record of the whole batch."""

    loss: Tensor
    """()"""
    losses: Tensor
    """(dims,)"""
    temperature: Tensor
    """(1,)"""
    learning_rate: float
    gradient_norm: Tensor
    """(), before clipping."""


class History:
    """The rows of all steps so far.

    Reading a number from a device waits for it, so a step only adds its tensors. `flush` reads those of many steps at once and averages
    them over processes in one reduction.
    """

    def __init__(self, dims: Sequence[int]) -> None:
        self.dims = tuple(dims)
        self.rows: list[StepRow] = []
        self._waiting: list[tuple[int, int, float, Tensor]] = []

    @property
    def columns(self) -> list[str]:
        """The columns of `reports/training.csv`."""
        return ["epoch", "step", "loss", *(f"loss_{dim}" for dim in self.dims), "learning_rate", "gradient_norm", "temperature"]

    def add(self, epoch: int, step: int, figures: StepFigures) -> None:
        """Stores a step's tensors without copying them to the CPU."""
        device = figures.loss.device
        tensors = [figures.loss.reshape(1), figures.losses, figures.gradient_norm.reshape(1), figures.temperature.reshape(1)]
        self._waiting.append((epoch, step, figures.learning_rate, torch.cat([tensor.detach().float().to(device) for tensor in tensors])))

    def flush(self) -> list[StepRow]:
        """Returns the rows since the last flush. All processes call it after the same step.

        Raises TrainingError on all processes for a loss that is not finite.
        """
        if not self._waiting:
            return []
        figures = mean_over_processes(torch.stack([waiting[3] for waiting in self._waiting])).cpu().double()
        rows: list[StepRow] = []
        for (epoch, step, learning_rate, _), values in zip(self._waiting, figures.tolist(), strict=True):
            row = StepRow(epoch, step, values[0], tuple(values[1:-2]), learning_rate, values[-2], values[-1])
            if not torch.isfinite(torch.tensor(row.loss)):
                raise TrainingError(
                    f"training: the loss of step {step} (epoch {epoch}) is {row.loss}. The last finite one was"
                    f" {(rows or self.rows)[-1].loss if rows or self.rows else 'none'}. Lower train.learning_rate, raise"
                    " train.warmup_fraction or loss.temperature, or set train.mixed_precision to bf16 or no."
                )
            rows.append(row)
        self.rows += rows
        self._waiting.clear()
        return rows

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint. The rows are one tensor, because there may be hundreds of thousands."""
        table = [[row.epoch, row.step, row.loss, *row.losses, row.learning_rate, row.gradient_norm, row.temperature] for row in self.rows]
        return {"dims": list(self.dims), "rows": torch.tensor(table, dtype=torch.float64).reshape(len(table), len(self.columns))}

    def load_state(self, state: dict[str, Any]) -> None:
        """Loads the rows of a checkpoint."""
        self.rows = [StepRow(int(row[0]), int(row[1]), row[2], tuple(row[3:-3]), *row[-3:]) for row in state["rows"].tolist()]

    def write_csv(self, path: Path) -> None:
        """Writes one line per step, with full float precision."""
        lines = [_csv_line(self.columns)]
        for row in self.rows:
            figures = [row.loss, *row.losses, row.learning_rate, row.gradient_norm, row.temperature]
            lines.append(_csv_line([str(row.epoch), str(row.step), *map(repr, figures)]))
        write_lines(path, lines)


def _csv_line(values: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()
