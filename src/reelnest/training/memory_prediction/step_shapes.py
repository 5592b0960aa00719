"""Inputs of given sizes for a training step, without data, to predict and measure its memory and time.

The batching code is the real one. Only the tokenizer and the item table are stand-ins, which know only lengths.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from transformers import PreTrainedConfig

from reelnest.backbones.architecture import hidden_size
from reelnest.backbones.family import Family
from reelnest.backbones.registry import family_of_config
from reelnest.encoder.batches import Batch, Batcher, Change, map_tensors
from reelnest.settings import Params, Preprocess
from reelnest.store.entries import Entry, Role
from reelnest.store.prepared import Pairs, Prepared
from reelnest.training.batches.pair_batches import PairBatch, PairBatcher
from reelnest.video.frames import Frames
from reelnest.video.vision_spec import Grid, VisionSpec

LONGEST_SIDES = 2.0
"""Largest ratio of a frame's sides. More extreme ratios are rare and give no more tokens."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a step's inputs: each query is a text, each target a video with a text."""

    text_tokens: int
    grid: Grid
    """Of each video."""


def largest_grid(preprocess: Preprocess, vision: VisionSpec) -> Grid:
    """Returns the grid of the largest video that the settings allow."""
    squares = preprocess.max_pixels // vision.factor**2  # tokens of a frame
    shapes = [(down, squares // down) for down in range(1, math.isqrt(squares) + 1) if squares // down <= LONGEST_SIDES * down]
    down, across = max(shapes or [(1, max(1, squares))], key=math.prod)
    return preprocess.frames // vision.temporal_patch_size, vision.merge_size * down, vision.merge_size * across


def stand_in_batcher(params: Params, config: PreTrainedConfig, sizes: Sizes, *, processes: int = 1, contents: bool = True) -> PairBatcher:
    """Returns a batcher for rows 0 … `train.batch_size` - 1, for the first of `processes`, with cached features of frozen modules.

    Without `contents`, patches and cached tokens have width 0: their number is right, and they take no memory.
    """
    family = family_of_config(config.to_dict(), "config")
    count = params.train.batch_size
    no_negatives = tuple(np.empty(0, np.int64) for _ in range(count))
    return PairBatcher(
        cast("Prepared", _Items(params, config, family, sizes, contents=contents)),
        Pairs(np.arange(count), np.arange(count, 2 * count), np.ones(count, np.float32), no_negatives),
        Batcher(_Tokenizer(family.special_tokens), params.model, family),
        0,
        processes,
        intra_modal=params.loss.needs_intra_modal_relations,
    )


def step_of(params: Params, batcher: PairBatcher) -> list[PairBatch]:
    """Returns the batches of one optimizer step."""
    return [batcher(np.arange(params.train.batch_size), params.train.micro_batch_size) for _ in range(params.train.accumulation_steps)]


class _Tokenizer:
    """Gives every text as many tokens as it has words. Has only the methods that `Batcher` uses."""

    name_or_path = "stand-in"

    def __init__(self, special_tokens: Sequence[str]) -> None:
        self._numbers = {token: number for number, token in enumerate(special_tokens)}

    def convert_tokens_to_ids(self, tokens: str) -> int:
        return self._numbers[tokens]

    def get_vocab(self) -> dict[str, int]:
        return self._numbers

    def __call__(self, texts: Sequence[str], *, max_length: int | None = None, **_options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [([len(self._numbers)] * len(text.split()))[:max_length] for text in texts]}


class RebuiltBatches(Sequence[Batch]):
    """Micro-batches that are rebuilt with `map_tensors` on each access, like real ones."""

    def __init__(self, batches: Sequence[Batch], change: Change = lambda _name, tensor: tensor) -> None:
        self.batches = list(batches)
        self._change = change

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]  # batches by number
        return map_tensors(self.batches[index], self._change)

    def mapped(self, change: Change) -> "RebuiltBatches":
        """Returns the batches with each tensor replaced by `change(name, tensor)`."""
        return RebuiltBatches(self.batches, change)


class _Items:
    """Items 0 … n - 1 are queries, the others targets; no items are related."""

    def __init__(self, params: Params, config: PreTrainedConfig, family: Family, sizes: Sizes, *, contents: bool) -> None:
        model, vision = params.model, family.vision
        text = " ".join(["word"] * sizes.text_tokens)
        half = model.dtype == "bfloat16" or params.train.mixed_precision == "bf16"
        dtype = np.uint16 if half else np.float32
        self._queries = params.train.batch_size
        self._entries = {"query": Entry("query", text, None)}
        if model.freeze == "backbone":
            self._entries = {role: Entry(role, "", None, pooled=np.ones((1, hidden_size(config)), dtype)) for role in ("query", "target")}
            return
        vision_is_frozen = model.freeze == "vision" or (model.lora is not None and not model.lora.vision)
        tokens = np.ones((vision.tokens(sizes.grid), family.video_width(config) if contents else 0), dtype) if vision_is_frozen else None
        rows = np.full((math.prod(sizes.grid), vision.row_width if contents and tokens is None else 0), 128, dtype=np.uint8)
        self._entries["target"] = Entry("target", text, Frames.of(rows, sizes.grid, 1.0, vision), tokens)

    def __len__(self) -> int:
        return 2 * self._queries

    def entry(self, item: int, _role: Role) -> Entry:
        return self._entries["query" if item < self._queries else "target"]

    def related(self, _item: int) -> np.ndarray:
        return np.empty(0, dtype=np.int64)
