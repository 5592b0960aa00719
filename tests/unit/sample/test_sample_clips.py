"""The drawings: each clip shows its combination, measured from the decoded frames only."""

import io
import random
from pathlib import Path

import av
import decord
import numpy as np
import pytest

from reelnest.sample.clips import FRAMES, FRAMES_PER_SECOND, OPPOSITES, PALETTE, SIZE, draw, encode, trajectory
from reelnest.sample.words import BACKGROUNDS, COLOURS, MOVEMENTS, SHAPES

DIRECTIONS = [
    ("right", 1, 0),
    ("left", -1, 0),
    ("up", 0, -1),
    ("down", 0, 1),
    ("top left", -1, -1),
    ("top right", 1, -1),
    ("bottom left", -1, 1),
    ("bottom right", 1, 1),
]
"""Movements with the signs of their steps across and down."""


def decoded(colour: str, shape: str, background: str, movement: str, seed: int = 0) -> np.ndarray:
    """The frames of an encoded clip, uint8 (frames, height, width, 3)."""
    rng = random.Random(seed)
    video = encode(draw(colour, shape, background, trajectory(movement, rng), rng))
    with av.open(io.BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def where(frames: np.ndarray, colour: str) -> np.ndarray:
    """Pixels within 60 of 255 of the shape's colour, bool (frames, height, width)."""
    return np.linalg.norm(frames.astype(float) - PALETTE[colour], axis=-1) < 60


def test_a_clip_is_two_seconds_of_h264_for_decord_and_pyav(tmp_path: Path) -> None:
    rng = random.Random(0)
    file = tmp_path / "clip.mp4"
    file.write_bytes(encode(draw("red", "bar", "dots", trajectory("right", rng), rng)))
    reader = decord.VideoReader(str(file))
    assert (len(reader), reader.get_avg_fps()) == (FRAMES, FRAMES_PER_SECOND)
    assert reader[0].shape == (SIZE, SIZE, 3)
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert "creation_time" not in container.metadata | stream.metadata


def test_colours_survive_the_encoding() -> None:
    rng = random.Random(3)
    drawn = draw("blue", "square", "bricks", trajectory("down", rng), rng)
    difference = np.abs(decoded("blue", "square", "bricks", "down", seed=3).astype(int) - drawn)
    assert np.median(difference) <= 3


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_each_colour_differs_from_each_background(colour: str, background: str) -> None:
    seen = where(decoded(colour, "circle", background, "right"), colour)
    assert (seen.mean(axis=(1, 2)) > 0.06).all()
    assert (seen.mean(axis=(1, 2)) < 0.25).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("movement", "across", "down"), DIRECTIONS)
def test_a_shape_moves_in_its_direction(shape: str, movement: str, across: int, down: int) -> None:
    seen = where(decoded("red", shape, "stripes", movement), "red")
    centre = np.array([[coordinates.mean() for coordinates in np.nonzero(frame)] for frame in seen])  # (frames, y and x)
    for direction, coordinates in zip((down, across), centre.T, strict=True):
        if direction:
            steps = direction * np.diff(coordinates)
            assert (steps > 0.3).all()
            assert steps.sum() > SIZE / 4
        else:
            assert np.abs(coordinates[-1] - coordinates[0]) < 3


@pytest.mark.parametrize("shape", SHAPES)
def test_a_growing_shape_covers_more_and_a_shrinking_one_less(shape: str) -> None:
    grown, shrunk = (where(decoded("green", shape, "black", movement), "green").sum(axis=(1, 2)) for movement in ("grow", "shrink"))
    assert grown[-1] > 2 * grown[0]
    assert shrunk[0] > 2 * shrunk[-1]


@pytest.mark.parametrize("movement", MOVEMENTS)
def test_a_movement_and_its_opposite_have_the_same_frames_in_reverse_order(movement: str) -> None:
    forward, backward = (
        draw("pink", "triangle", "checks", trajectory(way, random.Random(7)), random.Random(8)) for way in (movement, OPPOSITES[movement])
    )
    assert np.array_equal(forward, backward[::-1])


def test_unknown_names_are_errors() -> None:
    rng = random.Random(0)
    with pytest.raises(ValueError, match="shape"):
        draw("red", "blob", "black", trajectory("up", rng), rng)
    with pytest.raises(ValueError, match="background"):
        draw("red", "cross", "fog", trajectory("up", rng), rng)
