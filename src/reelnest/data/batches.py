"""Entries to the padded tensors that the encoder reads.

An entry becomes: its role's instruction and a line end (nothing for an empty one), the video's placeholder tokens (if it has frames), its
text, the end token. The end token is last in every row, so that last-token pooling reads what has seen everything. Rows with and without
video are padded apart, on the left: a video row is far longer than a search, and padding searches to its length would cost more than the
searches do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reelnest.config import Model
from reelnest.data.entries import Entry, Role
from reelnest.data.patches import MERGE_SIZE
from reelnest.errors import ModelError

END_TOKEN = "<|endoftext|>"  # noqa: S105 (a token of text, no secret)
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
VIDEO_PAD = "<|video_pad|>"

TEXT_TYPE, VIDEO_TYPE = 0, 2
"""Qwen2.5-VL's token types (1 is an image)."""


@dataclass
class Part:
    """Rows of one sort, padded on the left to the longest of them.

    `video_grid_thw` and `second_per_grid_ts` stay on the CPU: index work reads them as numbers, which on a GPU would wait for it each time.
    """

    input_ids: Tensor  # int64 (rows, tokens)
    attention_mask: Tensor  # int64 (rows, tokens), 0 for padding
    mm_token_type_ids: Tensor  # int64 (rows, tokens), 0 text, 2 video
    pooling_mask: Tensor  # int64 (rows, tokens), 1 for what mean pooling reads: all but padding and the instruction
    rows: Tensor | None = None  # uint8 (all patches, 1176), one video after the other
    video_grid_thw: Tensor | None = None  # int64 (rows, 3)
    second_per_grid_ts: Tensor | None = None  # float32 (rows,), seconds between two steps of the grid

    def to(self, device: torch.device | str) -> "Part":
        """The same part with its large tensors on `device`."""
        return Part(
            input_ids=self.input_ids.to(device, non_blocking=True),
            attention_mask=self.attention_mask.to(device, non_blocking=True),
            mm_token_type_ids=self.mm_token_type_ids.to(device, non_blocking=True),
            pooling_mask=self.pooling_mask.to(device, non_blocking=True),
            rows=None if self.rows is None else self.rows.to(device, non_blocking=True),
            video_grid_thw=self.video_grid_thw,
            second_per_grid_ts=self.second_per_grid_ts,
        )


@dataclass
class Batch:
    """What one forward pass reads. The rows of the parts, one part after the other, indexed with `order`, are in the entries' order."""

    parts: list[Part]
    order: Tensor  # int64 (entries,)

    def __len__(self) -> int:
        return len(self.order)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`."""
        return Batch([part.to(device) for part in self.parts], self.order.to(device, non_blocking=True))


class Batcher:
    """Makes batches of entries for one tokenizer and one model's settings (instructions, longest text).

    Raises ModelError where the tokenizer lacks one of Qwen2.5-VL's special tokens.
    """

    def __init__(self, tokenizer: Any, model: Model) -> None:
        self._tokenizer = tokenizer
        self._max_text_tokens = model.max_text_tokens
        special = {token: tokenizer.convert_tokens_to_ids(token) for token in (END_TOKEN, VISION_START, VISION_END, VIDEO_PAD)}
        known = tokenizer.get_vocab()
        missing = [token for token in special if token not in known]
        if missing:
            raise ModelError(
                f"The tokenizer of {tokenizer.name_or_path or 'this model'} lacks {', '.join(missing)}, which Qwen2.5-VL's has. "
                "Put the tokenizer files of a Qwen2.5-VL checkpoint beside the weights."
            )
        self._end = special[END_TOKEN]
        self._start_video, self._video, self._end_video = special[VISION_START], special[VIDEO_PAD], special[VISION_END]
        instructions: dict[Role, str] = {"query": model.query_instruction, "target": model.target_instruction}
        self._instructions = {role: self._tokenize([text + "\n"], None)[0] if text else [] for role, text in instructions.items()}

    def __call__(self, entries: Sequence[Entry]) -> Batch:
        """One batch of all `entries` (at least one)."""
        if not entries:
            raise ValueError("a batch needs at least one entry")
        texts = self._tokenize([entry.text for entry in entries], self._max_text_tokens)
        without: list[int] = []
        with_video: list[int] = []
        for index, entry in enumerate(entries):
            (without if entry.frames is None else with_video).append(index)
        parts = [self._part([entries[i] for i in chosen], [texts[i] for i in chosen]) for chosen in (without, with_video) if chosen]
        order = torch.empty(len(entries), dtype=torch.long)
        order[without + with_video] = torch.arange(len(entries))
        return Batch(parts, order)

    def _tokenize(self, texts: Sequence[str], longest: int | None) -> list[list[int]]:
        # Someone's text may hold "<|video_pad|>": split_special_tokens keeps it words, or it would ask for frames that are not there.
        # truncation is set each time, because a fast tokenizer remembers it.
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            truncation=longest is not None,
            max_length=longest,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _part(self, entries: Sequence[Entry], texts: Sequence[list[int]]) -> Part:
        rows = []
        for entry, text in zip(entries, texts, strict=True):
            video: list[int] = []
            if entry.frames is not None:
                steps, down, across = entry.frames.grid_thw
                video = [self._start_video, *[self._video] * (steps * down * across // MERGE_SIZE**2), self._end_video]
            rows.append([*self._instructions[entry.role], *video, *text, self._end])
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self._end, dtype=np.int64)  # (rows, tokens)
        mask, pooling_mask = np.zeros_like(ids), np.zeros_like(ids)
        for row, tokens in enumerate(rows):
            first = longest - len(tokens)
            ids[row, first:] = tokens
            mask[row, first:] = 1
            # The instruction stands first and sees nothing of what follows: in the mean it would be the same in all vectors of a role.
            pooling_mask[row, first + len(self._instructions[entries[row].role]) :] = 1
        part = Part(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            mm_token_type_ids=torch.from_numpy(np.where(ids == self._video, VIDEO_TYPE, TEXT_TYPE)),
            pooling_mask=torch.from_numpy(pooling_mask),
        )
        frames = [entry.frames for entry in entries if entry.frames is not None]
        if frames:
            part.rows = torch.from_numpy(np.concatenate([video.rows for video in frames]))
            part.video_grid_thw = torch.tensor([video.grid_thw for video in frames], dtype=torch.long)
            part.second_per_grid_ts = torch.tensor([video.seconds_per_grid for video in frames], dtype=torch.float32)
        return part
