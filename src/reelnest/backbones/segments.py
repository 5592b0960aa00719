"""The input of a backbone: rows of tokens of one kind, and the patches of their videos."""

from dataclasses import dataclass

import torch
from torch import Tensor

TEXT_TYPE, VIDEO_TYPE = 0, 2
"""transformers' token types (1 is an image)."""


@dataclass
class Segment:
    """Rows of one kind (text, video, or cached pooled states), padded on the left to the longest.

    Rows with cached pooled states have no tokens. Either all videos of a segment have cached tokens, or all have patches.
    `video_grid_thw` and `second_per_grid_ts` stay on the CPU: index code reads them as numbers, and each read from a GPU would wait for it.
    """

    input_ids: Tensor  # int64 (rows, tokens)
    attention_mask: Tensor  # int64 (rows, tokens), 0 for padding
    mm_token_type_ids: Tensor  # int64 (rows, tokens), 0 text, 2 video
    pooling_mask: Tensor  # int64 (rows, tokens), 1 for tokens that mean pooling reads: all but padding and the instruction
    rows: Tensor | None = None  # uint8 (all patches, row width), concatenated
    video_grid_thw: Tensor | None = None  # int64 (rows, 3)
    second_per_grid_ts: Tensor | None = None  # float32 (rows,), seconds between two steps of the grid
    video_tokens: Tensor | None = None  # (tokens of all videos, hidden), from a frozen vision tower
    pooled: Tensor | None = None  # (rows, hidden), from a frozen backbone

    @classmethod
    def of_frames(cls, rows: Tensor, video_grid_thw: Tensor) -> "Segment":
        """Builds a segment of videos without tokens, the input of the vision tower."""
        empty = torch.empty(len(video_grid_thw), 0, dtype=torch.long)
        return cls(empty, empty, empty, empty, rows=rows, video_grid_thw=video_grid_thw)

    @property
    def has_video(self) -> bool:
        """Whether the rows are videos."""
        return self.video_grid_thw is not None

    def to(self, device: torch.device | str) -> "Segment":
        """Returns a copy with the large tensors on `device`."""
        return Segment(
            input_ids=self.input_ids.to(device, non_blocking=True),
            attention_mask=self.attention_mask.to(device, non_blocking=True),
            mm_token_type_ids=self.mm_token_type_ids.to(device, non_blocking=True),
            pooling_mask=self.pooling_mask.to(device, non_blocking=True),
            rows=None if self.rows is None else self.rows.to(device, non_blocking=True),
            video_grid_thw=self.video_grid_thw,
            second_per_grid_ts=self.second_per_grid_ts,
            video_tokens=None if self.video_tokens is None else self.video_tokens.to(device, non_blocking=True),
            pooled=None if self.pooled is None else self.pooled.to(device, non_blocking=True),
        )
