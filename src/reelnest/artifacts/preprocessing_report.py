"""`reports/preprocessing.json`: what `prepared/` holds, and what could not be prepared."""

from typing import ClassVar

from reelnest.artifacts.artifact import Artifact, Part


class Dropped(Part):
    """What validation let pass and could not be prepared all the same."""

    videos: int
    by_reason: dict[str, int]
    details: dict[str, str]
    """By video, what is wrong with it."""
    pairs: int
    """Pairs that name such a video."""


class PreprocessingReport(Artifact):
    """The report of `reelnest preprocess`. It depends on the data and the settings alone."""

    FILE: ClassVar[str] = "preprocessing.json"
    COMMAND: ClassVar[str] = "reelnest preprocess"

    items: int
    texts: int
    videos: int
    pairs: dict[str, dict[str, int]]
    """By split, then by kind."""
    megabytes: float
    videos_by_grid: dict[str, int]
    videos_by_decoder: dict[str, int]
    decoder_of: dict[str, str]
    """By video, the decoder, where another one than the usual one read it; at most 100. The store's index has every video's."""
    dropped: Dropped
