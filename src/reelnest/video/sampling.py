"""Chooses which frames of a video to sample.

Frames are chosen by time, not by number: at a variable frame rate, equal steps in frame number are unequal steps in time.

Compared with Qwen's code:
- the number of frames is duration x fps rounded down to an even number, as in `smart_nframes` of qwen-vl-utils and `sample_frames` of
  transformers' `Qwen2VLVideoProcessor`. The minimum is 2, not 4 (`FPS_MIN_FRAMES`), so that a short clip at a low rate is not stretched;
- at a constant frame rate the chosen frames are those of qwen-vl-utils, `round(linspace(0, total - 1, count))`, which include the first
  and the last frame. transformers' `sample_frames` takes the first frame of each of `count` equal intervals, so never the last frame;
- `seconds_per_grid` is 2 / (count / duration), as in both.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IMAGES_PER_SECOND = 2.0
"""Frame rate of frame folders, which have no times. The same as in qwen-vl-utils."""


@dataclass(frozen=True)
class Clip:
    """The properties of a video that a sampler reads."""

    starts: NDArray[np.float64]
    """Start times of the frames in seconds, increasing, (total,)."""
    seconds: float
    span: int
    """Frames per step of the grid (`VisionSpec.temporal_patch_size`): 2 for the Qwen-VL families."""


@dataclass(frozen=True)
class FrameSampler:
    """One value of `preprocess.sampling`."""

    choose: Callable[[Clip, int, float], NDArray[np.int64]]
    """Returns frame numbers in time order, given a clip, `preprocess.frames` and `preprocess.fps`.

    Their count is a multiple of `span`, at least `span` and at most `frames`. Numbers repeat if the video has fewer frames.
    """
    reads_fps: bool
    """Whether the sampler uses `preprocess.fps`. If not, changing that setting does not cause videos to be decoded again."""


def _uniform(clip: Clip, frames: int, _fps: float) -> NDArray[np.int64]:
    return frame_indices(clip.starts, frame_count(len(clip.starts), frames, clip.span))


def _at_a_rate(clip: Clip, frames: int, fps: float) -> NDArray[np.int64]:
    # Durations are sums of rounded time stamps: 3 s at 2 a second must give 6 frames even if they add up to 2.9999999.
    count = int(clip.seconds * fps + 1e-6)
    return frame_indices(clip.starts, frame_count(len(clip.starts), min(frames, count), clip.span))


FRAME_SAMPLERS = {"uniform": FrameSampler(_uniform, reads_fps=False), "fps": FrameSampler(_at_a_rate, reads_fps=True)}
"""Samplers by name. To add a sampler, add a row: the settings, the frame store's keys and the decoder read this table."""


def sampler_names() -> tuple[str, ...]:
    """Returns the allowed values of `preprocess.sampling`."""
    return tuple(FRAME_SAMPLERS)


def frame_count(total: int, most: int, span: int) -> int:
    """Returns how many of `total` frames to sample: a multiple of `span`, at least `span`, otherwise at most `most` and `total`."""
    most = min(most, total)
    return max(span, most - most % span)


def frame_indices(starts: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Returns `count` frame numbers, evenly spread in time from the first frame to the last. A single frame is repeated.

    `starts` are the start times of the frames in seconds, increasing, (total,).
    """
    times = np.linspace(starts[0], starts[-1], count)
    positions = np.interp(times, starts, np.arange(len(starts), dtype=np.float64))
    # Rounded twice: noise in the time stamps must not decide how a half is rounded (to even, as torch.round does).
    return np.rint(np.round(positions, 6)).astype(np.int64)


def seconds_per_grid(count: int, seconds: float, span: int) -> float:
    """Returns the seconds between two steps of the grid, for `count` frames sampled from a video of length `seconds`."""
    return span * seconds / count
