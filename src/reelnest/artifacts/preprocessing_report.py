"""`reports/preprocessing.json`: the contents of `prepared/`, and the videos that could not be prepared."""

from typing import ClassVar

from reelnest.artifacts.artifact import Artifact, FrozenModel


class Dropped(FrozenModel):
    """Videos that passed validation but could not be prepared."""

    videos: int
    by_reason: dict[str, int]
    details: dict[str, str]
    """The problem, by video."""
    pairs: int
    """Pairs that name such a video."""


class PreprocessingReport(Artifact):
    """The report of `reelnest preprocess`. It depends only on the data and the settings."""

    FILE: ClassVar[str] = "preprocessing.json"
    COMMAND: ClassVar[str] = "reelnest preprocess"

    items: int
    texts: int
    videos: int
    pairs: dict[str, dict[str, int]]
    """Counts by split, then by kind."""
    megabytes: float
    videos_by_grid: dict[str, int]
    videos_by_decoder: dict[str, int]
    decoder_of: dict[str, str]
    """The decoder of each video that the default decoder did not read, at most 100 videos. The store's index has all of them."""
    dropped: Dropped
