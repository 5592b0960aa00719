"""Which frames of a video are kept.

Frames are chosen by time, not by number: where the frame rate varies, equal steps of the frame number are unequal steps of time.

Compared with Qwen's own code:
- the number of frames is counted as `smart_nframes` of qwen-vl-utils (and `sample_frames` of transformers' `Qwen2VLVideoProcessor`)
  counts it, duration x fps rounded down to an even number, but may be as low as 2 where theirs starts at 4 (`FPS_MIN_FRAMES`), so that a
  short clip at a low rate is not stretched;
- at a constant frame rate the chosen frames are those of qwen-vl-utils, `round(linspace(0, total - 1, count))`: the first and the last
  frame are among them. transformers' `sample_frames` takes the first frame of each of `count` equal parts instead, and so never the last
  one;
- `seconds_per_grid` is 2 / (count / duration), as in both.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IMAGES_PER_SECOND = 2.0
"""Frame folders have no times; qwen-vl-utils too takes a list of images for two a second."""


@dataclass(frozen=True)
class Clip:
    """What a sampler knows of a video."""

    starts: NDArray[np.float64]
    """The times, in seconds and rising, at which the frames appear, (total,)."""
    seconds: float
    span: int
    """The frames of one step of the grid (`VisionSpec.temporal_patch_size`): 2 for the Qwen-VL families."""


@dataclass(frozen=True)
class FrameSampler:
    """One value of `preprocess.sampling`."""

    choose: Callable[[Clip, int, float], NDArray[np.int64]]
    """Gives, for a clip, `preprocess.frames` and `preprocess.fps`, the numbers of the frames in the order of time.

    There are a multiple of `span`, at least `span` and at most `frames`; a number may repeat where the video has fewer.
    """
    reads_fps: bool
    """Whether `preprocess.fps` counts: where it does not, another value of it decodes nothing again."""


def _uniform(clip: Clip, frames: int, _fps: float) -> NDArray[np.int64]:
    return frame_indices(clip.starts, frame_count(len(clip.starts), frames, clip.span))


def _at_a_rate(clip: Clip, frames: int, fps: float) -> NDArray[np.int64]:
    # Durations are sums of rounded time stamps: 3 s at 2 a second must give 6 also where they add up to 2.9999999.
    wanted = int(clip.seconds * fps + 1e-6)
    return frame_indices(clip.starts, frame_count(len(clip.starts), min(frames, wanted), clip.span))


FRAME_SAMPLERS = {"uniform": FrameSampler(_uniform, reads_fps=False), "fps": FrameSampler(_at_a_rate, reads_fps=True)}
"""By name. A row is all that a new sampler needs: the settings, the frame store's keys and the decoder read this table."""


def sampler_names() -> tuple[str, ...]:
    """All names, for the settings."""
    return tuple(FRAME_SAMPLERS)


def frame_count(total: int, most: int, span: int) -> int:
    """How many frames to take of `total`: a multiple of `span`, at least `span`, at most `most`, and no more than there are."""
    most = min(most, total)
    return max(span, most - most % span)


def frame_indices(starts: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """`count` frame numbers, evenly spread in time from the first frame to the last; repeated where there is one frame only.

    `starts` are the times, in seconds and rising, at which the frames appear, (total,).
    """
    times = np.linspace(starts[0], starts[-1], count)
    positions = np.interp(times, starts, np.arange(len(starts), dtype=np.float64))
    # Rounded twice, so that noise of the time stamps cannot decide which way a half goes (to the even number, as torch's round).
    return np.rint(np.round(positions, 6)).astype(np.int64)


def seconds_per_grid(count: int, seconds: float, span: int) -> float:
    """Time from one step of the grid to the next, of `count` frames taken from a video of `seconds`."""
    return span * seconds / count
