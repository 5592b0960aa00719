"""Converts a decoded frame to the image that a player shows: RGB, square pixels, rotated and mirrored by its display matrix."""

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.sidedata.sidedata import Type
from PIL import Image

from reelnest.errors import VideoError
from reelnest.video.limits import check_area

MATRIX_NUMBERS = 9
UNKNOWN_MATRIX, RESERVED_MATRIX = 2, 3
"""Values of the colour matrix (ITU-T H.273)."""
MATRICES = {8: "YCgCo", 10: "BT.2020 with constant luminance", 14: "ICtCp"}
"""Those that FFmpeg's converter lacks."""


@dataclass(frozen=True)
class Orientation:
    """One of the eight orientations of an image: transposed first, then flipped left to right, then upside down."""

    is_transposed: bool = False
    is_flipped_across: bool = False
    is_flipped_down: bool = False


UPRIGHT = Orientation()


def frame_orientation(frame: av.VideoFrame) -> Orientation:
    """Returns the orientation in the frame's display matrix; upright if it has none. Angles are rounded to quarter turns."""
    # PyAV accepts the type as key; its stub declares names only.
    data = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]  # see above
    matrix = np.frombuffer(data, dtype=np.int32) if data is not None else ()
    if len(matrix) != MATRIX_NUMBERS:
        return UPRIGHT
    a, b, c, d = (int(matrix[at]) for at in (0, 1, 3, 4))
    if abs(a) < abs(b):
        return Orientation(is_transposed=True, is_flipped_across=c < 0, is_flipped_down=b < 0)
    return Orientation(is_flipped_across=a < 0, is_flipped_down=d < 0)


def square_pixel_width(width: int, aspect: Fraction | None) -> int:
    """Returns the width of the frame in square pixels. `aspect` is a pixel's width divided by its height; None is 1."""
    return width if aspect in (None, 1) else max(1, round(width * aspect))


def _rgb(frame: av.VideoFrame, name: str) -> av.VideoFrame:
    if frame.colorspace == RESERVED_MATRIX:  # some cameras write it, and players ignore it
        frame.colorspace = UNKNOWN_MATRIX
    try:
        return frame.reformat(format="rgb24", threads=1)
    except (av.error.FFmpegError, ValueError) as error:
        matrix = MATRICES.get(frame.colorspace, f"number {frame.colorspace}")
        problem = f"FFmpeg cannot convert its colours ({frame.format.name}, colour matrix {matrix}) to RGB"
        raise VideoError("bad_colours", f"{name}: {problem}; convert them: ffmpeg -i IN -vf zscale=matrix=709 out.mp4") from error


def picture(frame: av.VideoFrame, aspect: Fraction | None, name: str) -> Image.Image:
    """Returns the frame as a player shows it. Raises VideoError for a damaged or too large frame."""
    if frame.is_corrupt:
        raise VideoError("damaged", f"{name}: some of its frames are incomplete; copy it again")
    width = square_pixel_width(frame.width, aspect)
    check_area(name, max(width, frame.width), frame.height)
    image = Image.fromarray(_rgb(frame, name).to_ndarray())
    if width != image.width:
        image = image.resize((width, image.height), Image.Resampling.BICUBIC)
    orientation = frame_orientation(frame)
    if orientation.is_transposed:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    if orientation.is_flipped_across:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if orientation.is_flipped_down:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image
