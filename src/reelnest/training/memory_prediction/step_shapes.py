"""A training step's inputs of given sizes, without data: for predicting and for measuring what a step takes.

They go through the same batching as real ones; only the tokenizer and the table of items are stand-ins that know nothing but lengths.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

import numpy as np
from torch import Tensor
from transformers import Qwen2_5_VLConfig

from reelnest.encoder.batches import END_TOKEN, VIDEO_PAD, VISION_END, VISION_START, Batch, Batcher
from reelnest.settings import Params, Preprocess
from reelnest.store.entries import Entry, Role
from reelnest.store.prepared import Pairs, Prepared
from reelnest.training.batches.pair_batches import PairBatch, PairBatcher
from reelnest.video.frames import Frames
from reelnest.video.patches import FACTOR, MERGE_SIZE, ROW_WIDTH, TEMPORAL_PATCH_SIZE

LONGEST_SIDES = 2.0
"""A frame's sides are taken to differ by no more than this factor; longer ones are rare and hold no more tokens."""


@dataclass(frozen=True)
class Sizes:
    """What the queries and targets of a step look like: each query is a text, each target a video with a text."""

    text_tokens: int
    grid: tuple[int, int, int]
    """Patches in time, height and width of each video."""

    @property
    def video_tokens(self) -> int:
        """Tokens of one video, as the language model reads it."""
        return math.prod(self.grid) // MERGE_SIZE**2


def largest_grid(preprocess: Preprocess) -> tuple[int, int, int]:
    """Patches in time, height and width of the largest video that the settings let through."""
    squares = preprocess.max_pixels // FACTOR**2  # tokens of a frame
    shapes = [(down, squares // down) for down in range(1, math.isqrt(squares) + 1) if squares // down <= LONGEST_SIDES * down]
    down, across = max(shapes or [(1, max(1, squares))], key=math.prod)
    return preprocess.frames // TEMPORAL_PATCH_SIZE, MERGE_SIZE * down, MERGE_SIZE * across


def hidden_size(config: Qwen2_5_VLConfig) -> int:
    """Of the language model."""
    return int(cast("Any", config.text_config).hidden_size)


def stand_in_batcher(params: Params, config: Qwen2_5_VLConfig, sizes: Sizes, *, processes: int = 1, contents: bool = True) -> PairBatcher:
    """Batches of the rows 0 … `train.batch_size` - 1 as the first of `processes` gets them; what is frozen is kept, as in training.

    Without `contents` patches and kept tokens are 0 wide: their number is right, and they take no bytes.
    """
    count = params.train.batch_size
    nothing = tuple(np.empty(0, np.int64) for _ in range(count))
    return PairBatcher(
        cast("Prepared", _Items(params, config, sizes, contents=contents)),
        Pairs(np.arange(count), np.arange(count, 2 * count), np.ones(count, np.float32), nothing),
        Batcher(_Tokenizer(config.video_token_id), params.model),
        0,
        processes,
        micro_batch_size=params.train.micro_batch_size,
        same_side=params.loss.same_side_negatives,
    )


def step_of(params: Params, batcher: PairBatcher) -> list[PairBatch]:
    """The batches of one optimizer step."""
    return [batcher(np.arange(params.train.batch_size)) for _ in range(params.train.accumulation_steps)]


class _Tokenizer:
    """Gives every text as many tokens as it has words. Only what `Batcher` asks for is there."""

    name_or_path = "stand-in"

    def __init__(self, video_token: int) -> None:
        self._numbers = {END_TOKEN: 0, VISION_START: 1, VISION_END: 2, VIDEO_PAD: video_token}

    def convert_tokens_to_ids(self, token: str) -> int:
        return self._numbers[token]

    def get_vocab(self) -> dict[str, int]:
        return self._numbers

    def __call__(self, texts: Sequence[str], *, max_length: int | None = None, **_options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [([3] * len(text.split()))[:max_length] for text in texts]}


def of_each_tensor(found: Any, change: Any) -> Any:
    """A batch (dataclasses and lists of them) with `change(name, tensor)` in the place of each tensor."""
    if isinstance(found, MadeAnew):
        return MadeAnew(found.batches, change)
    if isinstance(found, list):
        return [of_each_tensor(each, change) for each in found]
    if not is_dataclass(found) or isinstance(found, type):
        return found
    changed = {}
    for field in fields(found):
        value = getattr(found, field.name)
        changed[field.name] = change(field.name, value) if isinstance(value, Tensor) else of_each_tensor(value, change)
    return replace(found, **changed)


class MadeAnew(Sequence[Batch]):
    """Stands for micro-batches, which are made each time they are asked for: so are the changed ones of `of_each_tensor`."""

    def __init__(self, batches: Sequence[Batch], change: Any = lambda _name, tensor: tensor) -> None:
        self.batches = list(batches)
        self._change = change

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        found: Batch = of_each_tensor(self.batches[index], self._change)
        return found


class _Items:
    """Items 0 … n - 1 are queries, the rest targets; nothing is related to anything."""

    def __init__(self, params: Params, config: Qwen2_5_VLConfig, sizes: Sizes, *, contents: bool) -> None:
        model, hidden = params.model, hidden_size(config)
        text = " ".join(["word"] * sizes.text_tokens)
        half = model.dtype == "bfloat16" or params.train.mixed_precision == "bf16"
        kept = np.uint16 if half else np.float32
        self._queries = params.train.batch_size
        self._entries = {"query": Entry("query", text, None)}
        if model.freeze == "backbone":
            self._entries = {role: Entry(role, "", None, pooled=np.ones((1, hidden), kept)) for role in ("query", "target")}
            return
        vision_is_frozen = model.freeze == "vision" or (model.lora is not None and not model.lora.vision)
        tokens = np.ones((sizes.video_tokens, hidden if contents else 0), kept) if vision_is_frozen else None
        rows = np.full((math.prod(sizes.grid), ROW_WIDTH if contents and tokens is None else 0), 128, dtype=np.uint8)
        self._entries["target"] = Entry("target", text, Frames.of(rows, sizes.grid, 1.0), tokens)

    def __len__(self) -> int:
        return 2 * self._queries

    def entry(self, item: int, _role: Role) -> Entry:
        return self._entries["query" if item < self._queries else "target"]

    def related(self, _item: int) -> np.ndarray:
        return np.empty(0, dtype=np.int64)
