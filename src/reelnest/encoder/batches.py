"""Turns entries into the padded tensors that the encoder reads.

An entry becomes its role's instruction, the video's placeholder tokens (if it has frames), its text and the end token, in the layout of the
family's prompt. The end token is last in every row, so last-token pooling reads a state that attends to the whole row. Rows with and
without video form separate segments, padded on the left; the model reads them without padding (see packing).
"""

import mmap
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from reelnest.backbones.family import Family
from reelnest.backbones.packing import Packing
from reelnest.backbones.prompt import Tokenizer, check_tokens, tokenize, without_blank_lines
from reelnest.backbones.segments import TEXT_TYPE, VIDEO_TYPE, Segment
from reelnest.settings import Model
from reelnest.store.cached_rows import Rows
from reelnest.store.entries import Entry, Role

T = TypeVar("T")
Change = Callable[[str, Tensor], Tensor]
"""Maps the name of a batch's field and its tensor to another tensor."""

KNOWN_CHARACTERS = 1 << 22
"""Total characters of the texts with cached tokens (about 40 MB); each epoch tokenizes the same texts."""


@dataclass
class Batch:
    """The input of one forward pass.

    The segments' rows, concatenated and indexed with `inverse`, are in the order of the entries.
    """

    segments: list[Segment]
    inverse: Tensor  # int64 (entries,), the inverse permutation
    packing: Packing | None  # of all segments but pooled ones; None if there are no others

    def __len__(self) -> int:
        return len(self.inverse)

    def to(self, device: torch.device | str) -> "Batch":
        """Returns a copy on `device`."""
        packing = None if self.packing is None else self.packing.to(device)
        return Batch([segment.to(device) for segment in self.segments], self.inverse.to(device, non_blocking=True), packing)


def map_tensors(batch: T, change: Change) -> T:
    """Returns a batch (nested dataclasses and lists) with each tensor replaced by `change(name, tensor)`.

    For batches that are built on access, the change is made then.
    """
    changed: object = batch
    if isinstance(batch, BuiltOnAccess):
        changed = batch.mapped(change)
    elif isinstance(batch, list):
        changed = [map_tensors(item, change) for item in batch]
    elif is_dataclass(batch) and not isinstance(batch, type):
        values = {field.name: getattr(batch, field.name) for field in fields(batch)}
        changed = replace(
            batch,
            **{name: change(name, value) if isinstance(value, Tensor) else map_tensors(value, change) for name, value in values.items()},
        )
    return cast("T", changed)


def pinned(batch: T) -> T:
    """Returns a batch in page-locked memory. Only from there is a copy to a GPU asynchronous; another waits for all work on the GPU."""
    return map_tensors(batch, lambda _name, tensor: tensor.pin_memory())


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Returns a copy on `device`; to a GPU, through page-locked memory."""
    return (pinned(batch) if device.type == "cuda" else batch).to(device)


@runtime_checkable
class BuiltOnAccess(Protocol):
    """Batches that are built anew on each access."""

    def mapped(self, change: Change) -> object:
        """Returns such batches with each tensor replaced by `change(name, tensor)`."""
        ...


def packed(segments: Sequence[Segment]) -> Packing | None:
    """Returns the packing of the segments' rows, on the CPU; None if all of them are pooled."""
    masks = [(segment.attention_mask.numpy(), segment.pooling_mask.numpy()) for segment in segments if segment.pooled is None]
    return Packing.of(*zip(*masks, strict=True)) if masks else None


def _pooled_segment(states: Sequence[Rows]) -> Segment:
    empty = torch.empty(len(states), 0, dtype=torch.long)
    return Segment(empty, empty, empty, empty, pooled=_joined(states))


def _joined(arrays: Sequence[Rows]) -> Tensor:
    rows = np.concatenate(arrays)
    return torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16) if rows.dtype == np.uint16 else torch.from_numpy(rows)


class Batcher:
    """Makes batches of entries for one tokenizer and one model's settings (instructions, longest text).

    Raises ModelError if the tokenizer lacks a special token of the family.
    """

    def __init__(self, tokenizer: Tokenizer, model: Model, family: Family) -> None:
        check_tokens(tokenizer, family.special_tokens, family.title)
        self._tokenizer, self._prompt = tokenizer, family.prompt(tokenizer)
        self._lock = threading.Lock()
        self._known: dict[str, list[int]] = {}
        self._known_characters = 0
        self._max_text_tokens = model.max_text_tokens
        instructions: dict[Role, str] = {"query": model.query_instruction, "target": model.target_instruction}
        self._instructions = {role: self._prompt.instruction(text) for role, text in instructions.items()}

    def __call__(self, entries: Sequence[Entry]) -> Batch:
        """Returns one batch of all `entries` (at least one)."""
        if not entries:
            raise ValueError("a batch needs at least one entry")
        return self._batch(entries, self._texts(entries))

    def stand_in(self) -> Batch:
        """Returns a batch of one empty text, for a process that must run the model without having anything to encode."""
        return self([Entry("query", "", None)])

    def micro_batches(self, entries: Sequence[Entry], count: int) -> tuple[Sequence[Batch], Tensor]:
        """Divides `entries` into `count` batches; returns them and the inverse permutation of their concatenated rows, int64 (entries,).

        Entries of one kind and of similar length share a batch. Batches hold about equally many tokens, not entries: a batch of videos has
        few rows, a batch of queries has many. This minimises the memory of the largest batch. Batches with video come last. If `count` is
        above 1, each access to a batch builds it anew.
        """
        if not 0 < count <= len(entries):
            raise ValueError(f"{len(entries)} entries do not fill {count} batches")
        if count == 1:
            return [self(entries)], torch.arange(len(entries))
        texts = self._texts(entries)
        video = np.array([0 if entry.frames is None else entry.frames.tokens for entry in entries])
        # A video token also costs four patches in the vision tower, so it counts twice.
        work = 2 * video + np.array([len(text) for text in texts]) + 1
        chosen = np.lexsort((work, video > 0))
        sub_batches = [
            ([entries[i] for i in indices], [texts[i] for i in indices]) for indices in split_evenly(chosen, work[chosen], count)
        ]
        return MicroBatches(self._batch, sub_batches), torch.from_numpy(np.argsort(chosen))

    def _texts(self, entries: Sequence[Entry]) -> list[list[int]]:
        with self._lock:  # one thread makes batches while another embeds
            if self._known_characters > KNOWN_CHARACTERS:
                self._known, self._known_characters = {}, 0
            new = list(dict.fromkeys(entry.text for entry in entries if entry.text not in self._known))
            texts = [without_blank_lines(text) for text in new]
            self._known.update(zip(new, tokenize(self._tokenizer, texts, self._max_text_tokens), strict=True))
            self._known_characters += sum(map(len, new))
            return [self._known[entry.text] for entry in entries]

    def _batch(self, entries: Sequence[Entry], texts: Sequence[list[int]], *, contents: bool = True) -> Batch:
        without: list[int] = []
        with_video: list[int] = []
        pooled: list[int] = []
        states: list[Rows] = []
        for index, entry in enumerate(entries):
            if entry.pooled is not None:
                pooled.append(index)
                states.append(entry.pooled)
            else:
                (without if entry.frames is None else with_video).append(index)
        segments = [
            self._segment([entries[i] for i in chosen], [texts[i] for i in chosen], contents=contents)
            for chosen in (without, with_video)
            if chosen
        ]
        if pooled:
            segments.insert(0, _pooled_segment(states))
        inverse = torch.empty(len(entries), dtype=torch.long)
        inverse[pooled + without + with_video] = torch.arange(len(entries))
        return Batch(segments, inverse, packed(segments))

    def _segment(self, entries: Sequence[Entry], texts: Sequence[list[int]], *, contents: bool) -> Segment:
        rows = []
        for entry, text in zip(entries, texts, strict=True):
            video: list[int] = []
            if entry.frames is not None:
                video = self._prompt.video(entry.frames.grid_thw, entry.frames.seconds_per_grid)
            rows.append([*self._instructions[entry.role], *(video + text or self._prompt.empty), *self._prompt.end])
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self._prompt.end[-1], dtype=np.int64)  # (rows, tokens)
        mask, pooling_mask = np.zeros_like(ids), np.zeros_like(ids)
        for row, tokens in enumerate(rows):
            first = longest - len(tokens)
            ids[row, first:] = tokens
            mask[row, first:] = 1
            # The instruction comes first and attends to nothing after it. In the mean it would add the same to all vectors of a role.
            pooling_mask[row, first + len(self._instructions[entries[row].role]) :] = 1
        segment = Segment(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            mm_token_type_ids=torch.from_numpy(np.where(ids == self._prompt.video_token, VIDEO_TYPE, TEXT_TYPE)),
            pooling_mask=torch.from_numpy(pooling_mask),
        )
        frames = [entry.frames for entry in entries if entry.frames is not None]
        if frames:
            video_tokens = [entry.video_tokens for entry in entries if entry.video_tokens is not None]
            if len(video_tokens) == len(frames):
                segment.video_tokens = _joined(video_tokens if contents else [rows[:0] for rows in video_tokens])
            else:
                segment.rows = torch.from_numpy(np.concatenate([video.rows if contents else video.rows[:0] for video in frames]))
            segment.video_grid_thw = torch.tensor([video.grid_thw for video in frames], dtype=torch.long)
            segment.second_per_grid_ts = torch.tensor([video.seconds_per_grid for video in frames], dtype=torch.float32)
        return segment


class MicroBatches(Sequence[Batch]):
    """Builds a batch on each access.

    Until then a video is only a reference into the memory-mapped store. So batches prepared in advance may be far larger than one embedded
    micro-batch.
    """

    def __init__(
        self, make: Callable[..., Batch], sub_batches: Sequence[tuple[list[Entry], list[list[int]]]], change: Change | None = None
    ) -> None:
        self._make = make
        self._sub_batches = sub_batches
        self._change = change
        for entries, _ in sub_batches:
            for entry in entries:
                if entry.frames is not None and entry.video_tokens is None and entry.pooled is None:
                    # Reads one byte of each page, so the prefetch thread waits for the disk and not the training step.
                    entry.frames.rows.reshape(-1)[:: mmap.PAGESIZE].any()

    def __len__(self) -> int:
        return len(self._sub_batches)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]  # slices are not used
        batch = self._make(*self._sub_batches[index])
        return batch if self._change is None else map_tensors(batch, self._change)

    def mapped(self, change: Change) -> "MicroBatches":
        """Returns the batches with each tensor replaced by `change(name, tensor)`."""
        return MicroBatches(self._make, self._sub_batches, change)

    def layouts(self) -> list[Batch]:
        """Returns the batches without patches and cached tokens, for their sizes."""
        return [self._make(*sub_batch, contents=False) for sub_batch in self._sub_batches]


def split_evenly(values: np.ndarray, work: np.ndarray, count: int) -> list[np.ndarray]:
    """Divides `values` into `count` non-empty runs with about equal sums of `work`."""
    reached = np.cumsum(work)
    ends = np.searchsorted(reached, reached[-1] * np.arange(1, count) / count, side="right")
    # Each run has at least one value and leaves one to each run after it.
    for run in range(count - 1):
        ends[run] = min(max(ends[run], (ends[run - 1] if run else 0) + 1), len(values) - (count - 1 - run))
    return np.split(values, ends)
