"""Limits on a video's size and length. Imports little, because the decoder process imports it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from reelnest.errors import VideoError

if TYPE_CHECKING:
    from reelnest.settings import Validate

MAX_FRAME_PIXELS = 8192 * 8192


@dataclass(frozen=True)
class Limits:
    """Limits on a video. They are checked before anything large is read."""

    megabytes: float
    frames: int
    seconds: float
    timeout_seconds: float

    @classmethod
    def of(cls, settings: "Validate") -> Self:
        """Returns the limits in the section `validate` of `params.yaml`."""
        return cls(
            megabytes=settings.max_video_megabytes,
            frames=settings.max_video_frames,
            seconds=settings.max_video_seconds,
            timeout_seconds=settings.decode_timeout_seconds,
        )

    def allow_bytes(self, size: int) -> bool:
        """Returns whether the files of a video may have this size."""
        return size <= self.megabytes * 1e6

    def check_frames(self, name: str, frames: int) -> None:
        """Raises VideoError (`too_many_frames`) for a video with more frames than the limit."""
        if frames > self.frames:
            raise VideoError("too_many_frames", f"{name}: {frames} frames; at most {self.frames} are allowed")

    def check_seconds(self, name: str, seconds: float) -> None:
        """Raises VideoError (`too_long`) for a video that is longer than the limit."""
        if seconds > self.seconds:
            raise VideoError("too_long", f"{name}: {seconds:.1f} s; at most {self.seconds:g} are allowed")


def check_area(name: str, width: int, height: int) -> None:
    """Raises VideoError (`too_large`) for frames with more than MAX_FRAME_PIXELS pixels."""
    if width * height > MAX_FRAME_PIXELS:
        raise VideoError("too_large", f"{name}: frames of {width} x {height} pixels; at most {MAX_FRAME_PIXELS} pixels are allowed")
