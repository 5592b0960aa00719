"""Texts and videos for a tiny model."""

import numpy as np

from reelnest.data.entries import Entry, Role
from reelnest.data.frames import Frames

TEXTS = ["a red circle moves from left to right on a dark ground", "a blue square grows", "title: two green stars turn"] * 20


def random_video(seed: int, grid: tuple[int, int, int] = (4, 4, 4), seconds: float = 0.5) -> Frames:
    rows = np.random.default_rng(seed).integers(0, 256, (int(np.prod(grid)), 1176), dtype=np.uint8)
    return Frames.of(rows, grid, seconds)


def mixed_entries(role: Role = "target") -> list[Entry]:
    """Texts and videos of several lengths, in turn."""
    return [
        Entry("query", "a red circle moves", None),
        Entry(role, "", random_video(1)),
        Entry("query", "a blue square grows on a dark ground, then turns to the left", None),
        Entry(role, "title: two green stars", random_video(2, (3, 12, 20), 1.0)),
        Entry(role, "", random_video(3, (2, 4, 6), 0.25)),
    ]
