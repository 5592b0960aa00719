"""Throughput: pairs, tokens and model FLOPs per second.

Model FLOPs exclude padding and recomputation, so that model FLOPs utilisation (MFU) is the share of a device's peak that training used
(Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B).
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from reelnest.backbones.flops import matrix_flops, trains
from reelnest.encoder.batches import Batch
from reelnest.encoder.encoder import Encoder
from reelnest.video.vision_spec import Grid

# Dense bfloat16, without sparsity, from the vendors' data sheets, in FLOPs per second.
_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


@dataclass(frozen=True)
class Work:
    """The amount of computation in a process's share of a step."""

    tokens: int = 0
    """Tokens that the language model reads."""
    flops: float = 0.0
    """Model FLOPs, forward and backward."""

    def __add__(self, work: "Work") -> "Work":
        return Work(self.tokens + work.tokens, self.flops + work.flops)


class WorkOf:
    """Counts the work of a batch on one encoder, by the model family's FLOP counts (`Family.flops`)."""

    def __init__(self, encoder: Encoder) -> None:
        self._backbone = encoder.family.flops(encoder.backbone)
        projection = encoder.projection
        self._entry = 0.0 if projection is None else matrix_flops([projection], backward=trains(encoder.backbone))
        self._videos: dict[Grid, float] = {}

    def __call__(self, batch: Batch) -> Work:
        """Returns the work of a batch on the CPU. Cached features are not computed, so they are not counted."""
        work = Work()
        for segment in batch.segments:
            lengths = segment.attention_mask.sum(1)  # (rows,)
            tokens = int(lengths.sum())
            flops = self._backbone.token * tokens + self._backbone.pair * int((lengths**2).sum()) + self._entry * len(lengths)
            if segment.rows is not None and segment.video_grid_thw is not None:
                flops += sum(self._of_video(tuple(grid)) for grid in segment.video_grid_thw.tolist())
            work += Work(tokens, flops)
        return work

    def _of_video(self, grid: Grid) -> float:
        if grid not in self._videos:
            self._videos[grid] = self._backbone.video(grid)
        return self._videos[grid]


class Meter:
    """Rates over all processes, assuming that each has as much work as this one. Only the time from `begin` to `rates` counts."""

    def __init__(self, encoder: Encoder, device: torch.device, processes: int) -> None:
        self._work_of = WorkOf(encoder)
        self._processes = processes
        peak = peak_flops(device)
        self._peak = None if peak is None else peak * processes
        self._now, self._all = _Span(), _Span()
        self._since = time.monotonic()

    def begin(self) -> None:
        """Starts the measurement."""
        self._now, self._since = _Span(), time.monotonic()

    def add(self, inputs: Iterable[Batch], pairs: int) -> None:
        """Adds a step: this process's `inputs`, and the step's number of pairs in all processes."""
        for batch in inputs:
            self._now.work += self._work_of(batch)
        self._now.pairs += pairs

    def rates(self) -> dict[str, float]:
        """Returns the rates since the last call, under the trackers' names."""
        self._now.seconds = time.monotonic() - self._since
        rates = self._now.rates(self._processes, self._peak)
        self._all.add(self._now)
        self.begin()
        return {f"train/{name}": value for name, value in rates.items()}

    def report(self) -> dict[str, float]:
        """Returns the rates over all steps of this process; empty if there were none."""
        return self._all.rates(self._processes, self._peak) if self._all.pairs else {}


@dataclass
class _Span:
    work: Work = Work()
    pairs: int = 0
    seconds: float = 0.0

    def add(self, span: "_Span") -> None:
        self.work += span.work
        self.pairs += span.pairs
        self.seconds += span.seconds

    def rates(self, processes: int, peak: float | None) -> dict[str, float]:
        seconds = max(self.seconds, 1e-9)
        flops = self.work.flops * processes / seconds
        rates = {
            "pairs_per_second": self.pairs / seconds,
            "tokens_per_second": self.work.tokens * processes / seconds,
            "model_tflops_per_second": flops / 1e12,
        }
        return rates if peak is None else {**rates, "mfu": flops / peak}


def peak_flops(device: torch.device) -> float | None:
    """Returns the device's peak in bfloat16 FLOPs per second; None for a CPU and for an unknown GPU."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """Returns the peak of a GPU by its name; None for an unknown one."""
    return next((peak for known, peak in _PEAKS.items() if known in name), None)
