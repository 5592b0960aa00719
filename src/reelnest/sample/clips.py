"""Draws the sample's clips and encodes them as H.264, with the same bytes on every run.

A clip shows one shape of one colour that moves, grows or shrinks in front of a still background. No single frame shows the
direction: each movement and its opposite have the same frames in reverse order.
"""

import io
import math
import random
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
"""Width and height in pixels. decord 3.4 misreads frames whose padded rows have four bytes a pixel, such as those of 96 pixels."""
FRAMES = 24
FRAMES_PER_SECOND = 12
SUPERSAMPLING = 4  # each pixel is the mean of 4 × 4, so a movement of a quarter of a pixel is visible

# Lengths as fractions of the frame's side.
RADIUS = (0.25, 0.29)
TRAVEL = (0.45, 0.55)
"""The distance of a movement along each axis. All movements take two seconds, so this sets the speed too."""
ACROSS = 0.08
"""The largest distance from the middle line."""
SMALL_TO_LARGE = (0.3, 0.4)
"""A growing shape's first size as a fraction of its last."""
TILT_DEGREES = 12.0
"""The largest tilt of a shape."""

ENCODER = {"preset": "veryfast", "crf": "25", "g": "24", "bf": "0", "threads": "1", "x264-params": "cpu-independent=1:weightp=0"}
"""These settings make x264's output repeatable. It depends on the number of threads and on the processor's instruction set. With weighted
prediction and a width that is not a multiple of 64, it also depends on uninitialised memory."""

PALETTE = {
    "red": (222, 36, 36),
    "orange": (250, 138, 20),
    "yellow": (250, 226, 50),
    "lime": (168, 240, 30),
    "green": (36, 160, 64),
    "turquoise": (48, 206, 214),
    "blue": (40, 80, 228),
    "purple": (130, 44, 206),
    "pink": (236, 76, 190),
}

BACKWARDS = {"right": "left", "down": "up", "bottom right": "top left", "top right": "bottom left", "grow": "shrink"}
OPPOSITES = BACKWARDS | {backwards: forwards for forwards, backwards in BACKWARDS.items()}
DIRECTIONS = {"right": (1, 0), "down": (0, 1), "bottom right": (1, 1), "top right": (1, -1)}  # (x, y); y grows downward, as in images


@dataclass(frozen=True)
class Trajectory:
    """The place and size of the shape in each frame, in pixels, and its angle in radians, clockwise."""

    x: np.ndarray  # (frames,)
    y: np.ndarray
    radius: np.ndarray
    angle: float


def trajectory(movement: str, rng: random.Random) -> Trajectory:
    """Draws one random trajectory of a movement. The opposite movement has the same trajectory in reverse, so no single frame differs."""
    time = np.linspace(0, 1, FRAMES)
    forward = movement
    if movement not in BACKWARDS:
        time, forward = time[::-1], OPPOSITES[movement]
    radius = rng.uniform(*RADIUS) * np.ones(FRAMES)
    angle = math.radians(rng.uniform(-TILT_DEGREES, TILT_DEGREES))
    along = DIRECTIONS.get(forward, (0, 0))
    offset = (time - 0.5) * rng.uniform(*TRAVEL)
    # Along its own axis a movement starts near the edge of the frame, so it varies less there.
    x, y = (0.5 + rng.uniform(-ACROSS, ACROSS) / (4 if axis else 1) + axis * offset for axis in along)
    if forward == "grow":
        smallest = rng.uniform(*SMALL_TO_LARGE)
        radius = radius * 1.4 * (smallest + (1 - smallest) * time)
    return Trajectory(x * SIZE, y * SIZE, radius * SIZE, angle)


def draw(colour: str, shape: str, background: str, path: Trajectory, rng: random.Random) -> np.ndarray:
    """Returns the clip's frames, uint8 (frames, height, width, 3). Raises ValueError for an unknown shape or background."""
    backdrop = Image.fromarray(_background(background, rng))
    outline = _outline(shape)  # (corners, 2), within the unit circle
    frames = np.empty((FRAMES, SIZE, SIZE, 3), np.uint8)
    cos, sin = math.cos(path.angle), math.sin(path.angle)
    outline = outline @ np.array([[cos, sin], [-sin, cos]])
    for index, (x, y, radius) in enumerate(zip(path.x, path.y, path.radius, strict=True)):
        corners = np.rint((outline * radius + (x, y)) * SUPERSAMPLING).astype(int)
        mask = Image.new("L", (SIZE * SUPERSAMPLING, SIZE * SUPERSAMPLING))
        ImageDraw.Draw(mask).polygon([tuple(corner) for corner in corners.tolist()], fill=255)
        frame = backdrop.copy()
        frame.paste(PALETTE[colour], mask=mask.reduce(SUPERSAMPLING))
        frames[index] = np.asarray(frame)
    return frames


def encode(frames: np.ndarray) -> bytes:
    """Returns an mp4 of the frames (uint8 (frames, height, width, 3)).

    Bit-exact muxing leaves out dates and versions. The conversion to YUV is our own, because FFmpeg's differs between processors.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=dict(ENCODER))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        stream.time_base = stream.codec_context.time_base = Fraction(1, FRAMES_PER_SECOND)
        for index, planes in enumerate(_yuv420(frames)):
            picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()


def _yuv420(frames: np.ndarray) -> np.ndarray:
    """Converts by BT.601 (16 to 235) in integers: (frames, height · 3 / 2, width), with the planes Y, U and V stacked."""
    count, height, width, _ = frames.shape
    red, green, blue = (np.ascontiguousarray(frames[..., channel]).astype(np.int32) for channel in range(3))  # (frames, height, width)
    luma = (66 * red + 129 * green + 25 * blue + 128 >> 8) + 16
    planes = [luma]
    for chroma in (-38 * red - 74 * green + 112 * blue + 128 >> 8, 112 * red - 94 * green - 18 * blue + 128 >> 8):
        sums = chroma[:, ::2, ::2] + chroma[:, ::2, 1::2] + chroma[:, 1::2, ::2] + chroma[:, 1::2, 1::2]
        planes.append(((sums + 2 >> 2) + 128).reshape(count, height // 4, width))
    return np.concatenate(planes, axis=1).astype(np.uint8)


def _outline(shape: str) -> np.ndarray:
    """Returns the corners of the upright, centred shape, (corners, 2)."""

    def around(count: int, radius: float = 1.0, first: float = -0.5 * math.pi) -> np.ndarray:
        angles = first + np.arange(count) * 2 * math.pi / count
        return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    if shape == "circle":
        return around(64, 0.92)
    if shape == "square":
        return around(4, 1.14, first=0.25 * math.pi)
    if shape == "triangle":
        return around(3, 1.25) + np.array((0, 0.12))
    if shape == "ring":
        return np.concatenate([around(65, 1.1)[[*range(65), 0]], around(65, 0.66)[[0, *range(64, -1, -1)]]])  # a band bent to a circle
    if shape == "bar":
        return np.array([(-0.3, -1.25), (0.3, -1.25), (0.3, 1.25), (-0.3, 1.25)])
    raise ValueError(f"unknown shape {shape!r}")


def _background(name: str, rng: random.Random) -> np.ndarray:
    """Draws a still background, uint8 (height, width, 3), whose pattern has a random offset.

    The two tones of a pattern are similar. With more contrast, a small model trained for two minutes sees little but the pattern.
    """
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    x, y = x + rng.randrange(SIZE), y + rng.randrange(SIZE)
    if name == "black":
        return _two_tones(np.zeros((SIZE, SIZE), bool), (16, 17, 20), (16, 17, 20))
    if name == "white":
        return _two_tones(np.zeros((SIZE, SIZE), bool), (240, 240, 236), (240, 240, 236))
    if name == "stripes":
        return _two_tones((x + y) // 16 % 2 == 0, (84, 88, 98), (120, 124, 134))
    if name == "checks":
        return _two_tones((x // 32 + y // 32) % 2 == 0, (150, 150, 150), (190, 190, 186))
    if name == "dots":
        return _two_tones((x % 26 - 12.5) ** 2 + (y % 26 - 12.5) ** 2 < 64, (70, 74, 110), (40, 44, 74))
    if name == "bricks":
        mortar = (y % 21 < 4) | ((x + 21 * (y // 21 % 2)) % 42 < 4)
        return _two_tones(mortar, (130, 100, 84), (104, 70, 56))
    raise ValueError(f"unknown background {name!r}")


def _two_tones(where: np.ndarray, inside: tuple[int, int, int], outside: tuple[int, int, int]) -> np.ndarray:
    return np.where(where[..., None], np.array(inside, np.uint8), np.array(outside, np.uint8))
