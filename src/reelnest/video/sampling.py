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

import numpy as np
from numpy.typing import NDArray

IMAGES_PER_SECOND = 2.0
"""Frame folders have no times; qwen-vl-utils too takes a list of images for two a second."""


def frame_count(total: int, seconds: float, *, sampling: str, frames: int, fps: float, span: int) -> int:
    """How many frames to take of `total`: a multiple of `span`, at least `span`, at most `frames`, and no more than there are.

    `span` is `VisionSpec.temporal_patch_size`: 2 for the Qwen-VL families.
    """
    most = min(frames, total - total % span)
    if sampling == "fps":
        # Durations are sums of rounded time stamps: 3 s at 2 a second must give 6 also where they add up to 2.9999999.
        wanted = int(seconds * fps + 1e-6)
        most = min(most, wanted - wanted % span)
    return max(span, most)


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
