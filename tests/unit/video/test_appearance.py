"""The perceptual hash is the usual one, and what it is for."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import fftpack

from reelnest.checks.near_duplicates import near_duplicates
from reelnest.video.files.appearance import appearance, cells_of, perceptual_hash


def picture(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def look(*images: Image.Image) -> str:
    text: str = appearance([cells_of(image) for image in images])["look"]
    return text


def groups(looks: list[str], most_bits: int) -> list[int]:
    """The groups, numbered as they come."""
    numbers: dict[int, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in near_duplicates(looks, most_bits).tolist()]


def test_the_hash_is_that_of_imagehash() -> None:
    for seed in range(20):
        grey = np.random.default_rng(seed).uniform(0, 255, (32, 32))
        lowest = fftpack.dct(fftpack.dct(grey, axis=0), axis=1)[:8, :8]  # imagehash.phash
        expected = np.packbits(lowest > np.median(lowest)).tobytes()
        assert perceptual_hash(grey) == expected


def test_a_scaled_and_blurred_copy_is_a_near_duplicate_and_other_colours_and_pictures_are_not() -> None:
    frames = [picture(1), picture(2), picture(3)]
    copy = [frame.resize((320, 200)).filter(ImageFilter.GaussianBlur(2)) for frame in frames]
    other = [picture(seed) for seed in (4, 5, 6)]
    swapped = [Image.merge("RGB", frame.split()[::-1]) for frame in frames]
    looks = [look(*other), look(*frames), look(*copy), look(*swapped), look(*frames)]
    assert groups(looks, 6) == [0, 1, 1, 2, 1]
    assert groups([], 6) == []


def test_the_allowed_difference_of_hashes_is_exact_and_chains_connect() -> None:
    def hashed(bits: int) -> str:
        return (np.packbits(np.arange(192) < bits).tobytes() + bytes(48)).hex()

    looks = [hashed(bits) for bits in (0, 11, 22, 34)]
    assert groups(looks, 11) == [0, 0, 0, 1]
    assert groups(looks, 10) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([Image.new("RGB", (64, 48))] * 4, (0, 0, 0)),
        ([Image.new("RGB", (64, 48), (0, 0, 200))] * 4, (200, 0, 0)),
        ([Image.new("L", (64, 48), 7), Image.new("L", (64, 48), 107)], (107, 0, 100)),
        ([Image.new("L", (64, 48), 7)], (7, 0, None)),
    ],
)
def test_black_one_colour_and_frozen_are_measured_in_grey_levels(images: list[Image.Image], expected: tuple[float | None, ...]) -> None:
    measured = appearance([cells_of(image) for image in images])
    assert (measured["brightness"], measured["contrast"], measured["change"]) == expected
    moving = appearance([cells_of(picture(1)), cells_of(picture(2))])
    assert min(moving["brightness"], moving["contrast"], moving["change"]) > 100
