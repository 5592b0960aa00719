"""How a model family stores frames as patches. Imports little, because the decoder process imports it."""

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

    Frames are resized by `patches.smart_resize`, which limits the area of one frame. If a family's own processor limits the area of the
    whole video, multiply these limits by the number of frames for it.
    """

    patch_size: int
    """Side of a patch, in pixels."""
    merge_size: int
    """Side of the square of patches that the model merges into one token."""
    temporal_patch_size: int
    """Frames per patch."""
    mean: tuple[float, float, float]
    """Per channel (red, green, blue), for values between 0 and 1."""
    std: tuple[float, float, float]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """Returns the inverse of `dataclasses.asdict`, also after a round trip through JSON."""
        return cls(**{**stored, "mean": tuple(stored["mean"]), "std": tuple(stored["std"])})

    @property
    def factor(self) -> int:
        """Pixels per token side: both sides of a resized frame are multiples of it."""
        return self.patch_size * self.merge_size

    @property
    def row_width(self) -> int:
        """Bytes of one patch."""
        return CHANNELS * self.temporal_patch_size * self.patch_size**2

    def tokens(self, grid: Grid) -> int:
        """Returns the number of tokens that the vision tower returns for a video."""
        return math.prod(grid) // self.merge_size**2


def differences(actual: VisionSpec, expected: VisionSpec) -> list[str]:
    """Describes each difference between two specs, for messages."""
    return [
        f"{field.name} {getattr(actual, field.name)}, not {getattr(expected, field.name)}"
        for field in fields(VisionSpec)
        if getattr(actual, field.name) != getattr(expected, field.name)
    ]
