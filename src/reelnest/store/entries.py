"""The encoder's input."""

from dataclasses import dataclass
from typing import Literal

from reelnest.store.cached_rows import Rows
from reelnest.video.frames import Frames

Role = Literal["query", "target"]


@dataclass(frozen=True, eq=False)
class Entry:
    """One input of the encoder. The role selects the instruction in front of it.

    `text` is a text item's text, or a video's text fields, one per line (`title: …`); it may be empty. `frames` is None for a text item.

    Cached features of frozen modules, or None: `video_tokens` from the vision tower, (tokens, hidden), in addition to the frames; `pooled`
    from the whole backbone, (1, hidden), instead of text and frames.
    """

    role: Role
    text: str
    frames: Frames | None
    video_tokens: Rows | None = None
    pooled: Rows | None = None
