"""What the encoder is asked to encode."""

from dataclasses import dataclass
from typing import Literal

from reelnest.data.frames import Frames

Role = Literal["query", "target"]


@dataclass(frozen=True, eq=False)
class Entry:
    """One input of the encoder: the role chooses the instruction that stands before it.

    `text` is a text item's own text, or a video's text fields, a line each (`title: …`), and may be empty.
    `frames` is None for a text item.
    """

    role: Role
    text: str
    frames: Frames | None
