"""A training step's inputs of given sizes, without data: for predicting and for measuring what a step takes.

They go through the same batching as real ones; only the tokenizer and the table of items are stand-ins that know nothing but lengths.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
from torch import Tensor
from transformers import PreTrainedConfig

from reelnest.backbones.architecture import hidden_size
from reelnest.backbones.family import Family
from reelnest.backbones.registry import family_of_config
from reelnest.encoder.batches import Batch, Batcher
from reelnest.settings import Params, Preprocess
from reelnest.store.entries import Entry, Role
from reelnest.store.prepared import Pairs, Prepared
from reelnest.training.batches.pair_batches import PairBatch, PairBatcher
from reelnest.video.frames import Frames
from reelnest.video.vision_spec import Grid, VisionSpec

T = TypeVar("T")
Change = Callable[[str, Tensor], Tensor]
"""From the name of a batch's field, and its tensor, to another tensor."""

LONGEST_SIDES = 2.0
"""A frame's sides are taken to differ by no more than this factor; longer ones are rare and hold no more tokens."""


@dataclass(frozen=True)
class Sizes:
    """What the queries and targets of a step look like: each query is a text, each target a video with a text."""

    text_tokens: int
    grid: Grid
    """Of each video."""


def largest_grid(preprocess: Preprocess, vision: VisionSpec) -> Grid:
    """The grid of the largest video that the settings let through."""
    squares = preprocess.max_pixels // vision.factor**2  # tokens of a frame
    shapes = [(down, squares // down) for down in range(1, math.isqrt(squares) + 1) if squares // down <= LONGEST_SIDES * down]
    down, across = max(shapes or [(1, max(1, squares))], key=math.prod)
    return preprocess.frames // vision.temporal_patch_size, vision.merge_size * down, vision.merge_size * across


def stand_in_batcher(params: Params, config: PreTrainedConfig, sizes: Sizes, *, processes: int = 1, contents: bool = True) -> PairBatcher:
    """Batches of the rows 0 … `train.batch_size` - 1 as the first of `processes` gets them; what is frozen is kept, as in training.

    Without `contents` patches and kept tokens are 0 wide: their number is right, and they take no bytes.
    """
    family = family_of_config(config.to_dict(), "config")
    count = params.train.batch_size
    nothing = tuple(np.empty(0, np.int64) for _ in range(count))
    return PairBatcher(
        cast("Prepared", _Items(params, config, family, sizes, contents=contents)),
        Pairs(np.arange(count), np.arange(count, 2 * count), np.ones(count, np.float32), nothing),
        Batcher(_Tokenizer(family.special_tokens), params.model, family),
        0,
        processes,
        intra_modal=params.loss.needs_intra_modal_relations,
    )


def step_of(params: Params, batcher: PairBatcher) -> list[PairBatch]:
    """The batches of one optimizer step."""
    return [batcher(np.arange(params.train.batch_size), params.train.micro_batch_size) for _ in range(params.train.accumulation_steps)]


class _Tokenizer:
    """Gives every text as many tokens as it has words. Only what `Batcher` asks for is there."""

    name_or_path = "stand-in"

    def __init__(self, special_tokens: Sequence[str]) -> None:
        self._numbers = {token: number for number, token in enumerate(special_tokens)}

    def convert_tokens_to_ids(self, tokens: str) -> int:
        return self._numbers[tokens]

    def get_vocab(self) -> dict[str, int]:
        return self._numbers

    def __call__(self, texts: Sequence[str], *, max_length: int | None = None, **_options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [([len(self._numbers)] * len(text.split()))[:max_length] for text in texts]}


def of_each_tensor(batch: T, change: Change) -> T:
    """A batch (dataclasses and lists of them) with `change(name, tensor)` in the place of each tensor."""
    changed: object = batch
    if isinstance(batch, MadeAnew):
        changed = MadeAnew(batch.batches, change)
    elif isinstance(batch, list):
        changed = [of_each_tensor(item, change) for item in batch]
    elif is_dataclass(batch) and not isinstance(batch, type):
        values = {field.name: getattr(batch, field.name) for field in fields(batch)}
        changed = replace(
            batch,
            **{name: change(name, value) if isinstance(value, Tensor) else of_each_tensor(value, change) for name, value in values.items()},
        )
    return cast("T", changed)


class MadeAnew(Sequence[Batch]):
    """In place of micro-batches, which are made each time they are asked for: so are the changed ones of `of_each_tensor`."""

    def __init__(self, batches: Sequence[Batch], change: Change = lambda _name, tensor: tensor) -> None:
        self.batches = list(batches)
        self._change = change

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        return of_each_tensor(self.batches[index], self._change)


class _Items:
    """Items 0 … n - 1 are queries, the rest targets; nothing is related to anything."""

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
