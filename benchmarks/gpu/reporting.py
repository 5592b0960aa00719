"""What a check knows about its run, and how it reports."""

import gc
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch


class SkippedError(Exception):
    """The check cannot run here."""


class Run:
    """One check's run: where it computes, with which sizes, and its results so far.

    Each result is written at once, so that a check that is killed loses nothing.
    """

    def __init__(self, device: str, size: str, results: Path, folder: Path) -> None:
        self.device = torch.device(device, 0) if device == "cuda" else torch.device(device)
        self.tiny = size == "tiny"
        self.folder = folder
        """For files that the checks share or write."""
        self._results = results

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def figures(self, **figures: Any) -> None:
        """Records figures by name."""
        self._write({"figures": {name: _plain(value) for name, value in figures.items()}})

    def require(self, condition: bool, what: str) -> None:
        """Records a failure unless the condition is true. The check continues."""
        if not condition:
            self._write({"failure": what})

    def skip(self, reason: str) -> NoReturn:
        """Ends the check."""
        raise SkippedError(reason)

    def finish(self, **outcome: Any) -> None:
        """Records the end of the check."""
        self._write(outcome)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of a check: if it raises, the failure is recorded, and the parts after it still run."""
        try:
            yield
        except SkippedError:
            raise
        except Exception as error:  # noqa: BLE001 - it is recorded
            self._write({"failure": f"{name}: {one_line(error)}"})

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Any, repeats: int = 1, warm_up: int = 1) -> float:
        """Returns the mean seconds of a call, the device's work included."""
        for _ in range(warm_up):
            call()
        self.synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        self.synchronize()
        return (time.perf_counter() - started) / repeats

    def begin_peak(self) -> None:
        """Starts a new peak."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)

    def free(self) -> None:
        """Frees what nothing refers to."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    @property
    def peak_mib(self) -> float | None:
        """The most memory that tensors held since `begin_peak`; None without a GPU."""
        return torch.cuda.max_memory_allocated(self.device) / (1 << 20) if self.on_gpu else None

    def _write(self, record: dict[str, Any]) -> None:
        with self._results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def one_line(error: BaseException) -> str:
    """Returns an error's kind and the first 300 characters of its text, without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _plain(value: Any) -> Any:
    """A figure as JSON has it, with four significant digits."""
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
