"""What the encoder is asked to encode."""

from dataclasses import dataclass
from typing import Literal

from reelnest.store.cached_rows import Rows
from reelnest.video.frames import Frames

Role = Literal["query", "target"]


@dataclass(frozen=True, eq=False)
class Entry:
    """One input of the encoder: the role chooses the instruction that stands before it.

    `text` is a text item's own text, or a video's text fields, a line each (`title: …`), and may be empty.
    `frames` is None for a text item. Where parts of the model are frozen, what they made of the entry may be kept and stand here:
    `video_tokens` of the vision tower, (tokens, hidden), beside the frames, and `pooled` of the whole backbone, (1, hidden), which needs
    neither text nor frames.
    """

    role: Role
    text: str
    frames: Frames | None
    video_tokens: Rows | None = None
    pooled: Rows | None = None
