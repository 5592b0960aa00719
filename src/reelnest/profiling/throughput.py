"""How much is computed in a second: pairs, tokens, and the floating point operations that the model needs for them.

Model FLOPs are what the mathematics asks for, whatever is computed again or padded, so that model FLOPs utilisation (MFU) says how much of
a device's arithmetic went into training (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B).
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from reelnest.backbones.positions import vision_index
from reelnest.encoder.batches import Batch
from reelnest.encoder.encoder import Encoder
from reelnest.video.patches import MERGE_SIZE

# Dense bfloat16, without sparsity, from the makers' data sheets, in FLOP a second.
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
    """What a process's share of a step holds."""

    tokens: int = 0
    """That the language model reads."""
    flops: float = 0.0
    """Forward and backward."""

    def __add__(self, other: "Work") -> "Work":
        return Work(self.tokens + other.tokens, self.flops + other.flops)


class WorkOf:
    """Counts the work of a batch on one encoder.

    Each weight of a matrix costs 2 FLOPs a token forward, 2 more where a gradient passes through it to something that trains, and 2 more
    where it trains itself. Attention costs 4 times width a pair of tokens forward, all of a sequence's pairs counted, as in the paper.
    """

    def __init__(self, encoder: Encoder) -> None:
        backbone: Any = encoder.backbone
        self._vision = backbone.visual.config
        tower, merger = backbone.visual.blocks, backbone.visual.merger
        trains = any(parameter.requires_grad for parameter in backbone.visual.parameters())
        # A frozen tower has no backward pass; the language model's reaches down to the first layer as soon as anything in it trains.
        # Pixels need no gradient.
        self._patch = _flops([backbone.visual.patch_embed], backward=False) + _flops(tower, backward=trains)
        self._merged = _flops([merger], backward=trains)
        self._vision_pair = 4 * self._vision.hidden_size * (3 if trains else 1)
        self._vision_layers, self._full = len(tower), len(self._vision.fullatt_block_indexes)
        text = backbone.language_model.config
        trains = any(parameter.requires_grad for parameter in backbone.parameters())
        self._token = _flops(backbone.language_model.layers, backward=trains)
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self._pair = 4 * text.num_attention_heads * head * text.num_hidden_layers * (3 if trains else 1)
        self._entry = 0.0 if encoder.projection is None else _flops([encoder.projection], backward=trains)
        self._videos: dict[tuple[int, ...], float] = {}

    def __call__(self, batch: Batch) -> Work:
        """Of a batch that lies on the CPU. Parts that are frozen and kept are not computed, and not counted."""
        work = Work()
        for part in batch.parts:
            lengths = part.attention_mask.sum(1)  # (rows,)
            tokens = int(lengths.sum())
            flops = self._token * tokens + self._pair * int((lengths**2).sum()) + self._entry * len(lengths)
            if part.rows is not None and part.video_grid_thw is not None:
                flops += sum(self._of_video(tuple(grid)) for grid in part.video_grid_thw.tolist())
            work += Work(tokens, flops)
        return work

    def _of_video(self, grid: tuple[int, ...]) -> float:
        if grid not in self._videos:
            index = vision_index(torch.tensor([grid]), self._vision)
            windows, frames = (
                sum((end - start) ** 2 for start, end in pairwise(ends.tolist())) for ends in (index.cu_window_seqlens, index.cu_seqlens)
            )
            patches = int(torch.tensor(grid).prod())
            pairs = windows * (self._vision_layers - self._full) + frames * self._full
            self._videos[grid] = self._patch * patches + self._merged * patches / MERGE_SIZE**2 + self._vision_pair * pairs
        return self._videos[grid]


class Meter:
    """Rates over all processes, each of which is taken to have as much to do as this one. Only the time inside `begin` … `rates` counts."""

    def __init__(self, encoder: Encoder, device: torch.device, processes: int) -> None:
        self._work_of = WorkOf(encoder)
        self._processes = processes
        peak = peak_flops(device)
        self._peak = None if peak is None else peak * processes
        self._now, self._all = _Span(), _Span()
        self._since = time.monotonic()

    def begin(self) -> None:
        """The time counts from here."""
        self._now, self._since = _Span(), time.monotonic()

    def add(self, inputs: Iterable[Batch], pairs: int) -> None:
        """A step's share of this process, and its pairs of all processes."""
        for batch in inputs:
            self._now.work += self._work_of(batch)
        self._now.pairs += pairs

    def rates(self) -> dict[str, float]:
        """Since the last call, under the trackers' names."""
        self._now.seconds = time.monotonic() - self._since
        rates = self._now.rates(self._processes, self._peak)
        self._all.add(self._now)
        self.begin()
        return {f"train/{name}": value for name, value in rates.items()}

    def report(self) -> dict[str, float]:
        """Of all steps of this process; empty where it took none."""
        return self._all.rates(self._processes, self._peak) if self._all.pairs else {}


@dataclass
class _Span:
    work: Work = Work()
    pairs: int = 0
    seconds: float = 0.0

    def add(self, other: "_Span") -> None:
        self.work += other.work
        self.pairs += other.pairs
        self.seconds += other.seconds

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
    """The device's arithmetic in bfloat16, FLOP a second; None for a CPU and for a card that is not known here."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in _PEAKS.items() if known in name), None)


def _flops(modules: Any, *, backward: bool) -> float:
    """Of one token through all weight matrices of `modules`; the tables of embeddings are looked up, not multiplied."""
    flops = 0.0
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv3d):
                trains = layer.weight.requires_grad
                flops += layer.weight.numel() * (2 + (2 if backward else 0) + (2 if trains else 0))
    return flops
