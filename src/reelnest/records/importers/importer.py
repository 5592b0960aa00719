"""What an importer is: a function that reads another layout row by row."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from reelnest.implementations import Implementations


@dataclass(frozen=True)
class Origin:
    """Where a row comes from, for messages."""

    file: str
    """Relative to the source."""
    row: int
    """From 1: a line of a text file, a row of a table, an entry of a list."""


@dataclass(frozen=True)
class VideoRow:
    """A video, as a record of `videos.jsonl`."""

    origin: Origin
    record: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)
    """The paths that the record names → the files that are copied there."""


@dataclass(frozen=True)
class PairRow:
    """A pair, as a record of `pairs.jsonl`."""

    origin: Origin
    record: Mapping[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used."""

    origin: Origin
    reason: str
    """A short stable word, by which bad rows are counted."""
    detail: str
    """What was found, what was expected, what to do."""
    video_id: str | None = None
    """Of a video that is left out: a pair that names it is left out too, and its id is not taken for a text."""


Row = VideoRow | PairRow | BadRow


class Importer(Protocol):
    """Reads one layout."""

    def __call__(self, source: Path) -> Iterator[Row]:
        """Yields the rows of the layout.

        An importer says what is in the source and checks no more than it must to do so. What all importers share is done for it: records
        are checked as `reelnest validate` reads them, ids must be unique, pairs must name known videos, files must exist, paths must stay
        inside the new folder. A row that fails is reported with its origin, and the import goes on.

        Args:
            source: The file or folder that the user named. It exists.

        Yields:
            VideoRow, PairRow and BadRow in any order; a pair may come before its videos. Records may leave out what is optional in
            docs/data.md; a side of a pair should be {"text": …} or {"video": video_id}, unless the layout does not say which it is.

        Raises:
            DataError: where the source is not of this layout at all, such as for a missing file: the text says which, and what was
            expected.
        """


IMPORTERS: Implementations[Importer] = Implementations("importer", "reelnest.records.importers")
"""By name. Register a function with `@IMPORTERS.register("name")`, in a file of this package or before `import_data` is called."""
