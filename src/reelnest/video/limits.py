"""What a video may cost, and the checks of it. The decoder process reads them too, so nothing heavy is imported here."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from reelnest.errors import VideoError

if TYPE_CHECKING:
    from reelnest.settings import Validate

MAX_FRAME_PIXELS = 8192 * 8192


@dataclass(frozen=True)
class Limits:
    """What a video may cost. Checked before anything large is read."""

    megabytes: float
    frames: int
    seconds: float
    timeout_seconds: float

    @classmethod
    def of(cls, settings: "Validate") -> Self:
        """The limits that `params.yaml` sets under `validate`."""
        return cls(
            megabytes=settings.max_video_megabytes,
            frames=settings.max_video_frames,
            seconds=settings.max_video_seconds,
            timeout_seconds=settings.decode_timeout_seconds,
        )

    def check_frames(self, name: str, frames: int) -> None:
        """Raises VideoError (`too_many_frames`) for a video of more frames than are allowed."""
        if frames > self.frames:
            raise VideoError("too_many_frames", f"{name}: {frames} frames; at most {self.frames} are allowed")

    def check_seconds(self, name: str, seconds: float) -> None:
        """Raises VideoError (`too_long`) for a video that is longer than allowed."""
        if seconds > self.seconds:
            raise VideoError("too_long", f"{name}: {seconds:.1f} s; at most {self.seconds:g} are allowed")


def check_area(name: str, width: int, height: int) -> None:
    """Raises VideoError (`too_large`) for frames of more pixels than any decoder here is given memory for."""
    if width * height > MAX_FRAME_PIXELS:
        raise VideoError("too_large", f"{name}: frames of {width} x {height} pixels; at most {MAX_FRAME_PIXELS} pixels are allowed")
