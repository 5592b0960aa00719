"""The importer protocol: a function that reads another layout row by row."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reelnest.implementations import Implementations

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Origin:
    """The source of a row, for messages."""

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
    """Path in the record → file to copy there."""


@dataclass(frozen=True)
class PairRow:
    """A pair, as a record of `pairs.jsonl`."""

    origin: Origin
    record: Mapping[str, Any]


@dataclass(frozen=True)
class PairColumns:
    """Many pairs of a search text and a video, as columns: for layouts with millions of rows."""

    file: str
    rows: NDArray[np.int64]
    """The row of each pair in `file`."""
    queries: "pa.Array"
    """Strings."""
    video_ids: "pa.Array"
    """Strings. The videos, or their bad rows, must come before the pairs."""
    splits: "pa.Array | None" = None
    """Strings; null for none."""
    relevance: "pa.Array | None" = None
    """Numbers; null for none."""

    def row(self, at: int) -> PairRow:
        """Returns one of the pairs."""
        record: dict[str, Any] = {"query": {"text": self.queries[at].as_py()}, "target": {"video": self.video_ids[at].as_py()}}
        for key, column in (("split", self.splits), ("relevance", self.relevance)):
            if column is not None and column[at].is_valid:
                record[key] = column[at].as_py()
        return PairRow(Origin(self.file, int(self.rows[at])), record)


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used."""

    origin: Origin
    reason: str
    """A short stable word, used to count bad rows."""
    detail: str
    """The problem, the expected content, and advice."""
    video_id: str | None = None
    """Id of a skipped video. Pairs that name it are skipped, and its id is not read as a text."""


Row = VideoRow | PairRow | PairColumns | BadRow


class Importer(Protocol):
    """Reads one layout."""

    def __call__(self, source: Path) -> Iterator[Row]:
        """Yields the rows of the layout.

        An importer needs no checks beyond its layout. `import_data` checks the rows of all importers: records must be valid for `reelnest
        validate`, ids unique, videos of pairs known, files present, and paths inside the new folder. A row that fails is reported with its
        origin and skipped.

        Args:
            source: The file or folder that the user named. It exists.

        Yields:
            VideoRow, PairRow, PairColumns and BadRow in any order; a PairRow may come before its videos. Records may omit keys that
            docs/data.md lists as optional. A side of a pair should be {"text": …} or {"video": video_id}; use a bare string if the layout
            does not distinguish.

        Raises:
            DataError: if the source does not have this layout, such as for a missing file. The text names the file and the expected layout.
        """


IMPORTERS: Implementations[Importer] = Implementations("importer", "reelnest.records.importers")
"""Importers by name. Register a function with `@IMPORTERS.register("name")`, in this package or before `import_data` is called."""
