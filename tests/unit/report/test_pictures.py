"""Frames as pictures in the page."""

import base64
import io

import numpy as np
from PIL import Image

from reelnest.report.pictures import GAP, LARGEST, strip


def test_frames_stand_side_by_side_in_order_of_time() -> None:
    frames = np.random.default_rng(0).integers(60, 196, (3, 1, 1, 3), np.uint8).repeat(28, 1).repeat(56, 2)  # of one colour each
    made = strip(frames)
    assert (made.width, made.height, made.frames) == (3 * 56 + 2 * GAP, 28, 3)
    assert made.address.startswith("data:image/jpeg;base64,")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(made.address.split(",")[1]))).convert("RGB"))
    assert picture.shape == (made.height, made.width, 3)
    for number, frame in enumerate(frames):
        start = number * (56 + GAP)
        assert np.abs(picture[8:-8, start + 16 : start + 40].astype(int) - frame[8:-8, 16:40]).max() <= 4


def test_a_strip_of_noise_keeps_within_its_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4, 112, 112, 3), np.uint8)
    assert len(base64.b64decode(strip(noise).address.split(",")[1])) <= LARGEST
