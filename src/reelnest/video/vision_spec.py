"""What of a model family decides how its frames are stored. Light: the decoder process imports it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

CHANNELS = 3

Grid = tuple[int, int, int]
"""Patches of a video in time, height and width."""


@dataclass(frozen=True)
class VisionSpec:
    """How a model family cuts frames into patches, and how it normalises them.

    Frames are resized by `patches.smart_resize`, whose bounds are on the area of a frame. A family whose own processor bounds the whole
    video gives that processor the same bounds times the number of frames.
    """

    patch_size: int
    """Pixels on a patch's side."""
    merge_size: int
    """Patches on the side of the square that the model merges into one token."""
    temporal_patch_size: int
    """Frames that one patch spans."""
    mean: tuple[float, float, float]
    """Of values between 0 and 1, by channel (red, green, blue)."""
    std: tuple[float, float, float]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """The spec that `dataclasses.asdict` turned into a mapping, which may have been JSON in between."""
        return cls(**{**stored, "mean": tuple(stored["mean"]), "std": tuple(stored["std"])})

    @property
    def factor(self) -> int:
        """Both sides of a resized frame are multiples of this."""
        return self.patch_size * self.merge_size

    @property
    def row_width(self) -> int:
        """Bytes of one patch."""
        return CHANNELS * self.temporal_patch_size * self.patch_size**2

    def tokens(self, grid: Grid) -> int:
        """Tokens that the vision tower makes of a video."""
        return math.prod(grid) // self.merge_size**2


def differences(found: VisionSpec, wanted: VisionSpec) -> list[str]:
    """What differs between two specs, as a person reads it."""
    return [
        f"{field.name} {getattr(found, field.name)}, not {getattr(wanted, field.name)}"
        for field in fields(VisionSpec)
        if getattr(found, field.name) != getattr(wanted, field.name)
    ]
