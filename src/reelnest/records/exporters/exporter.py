"""The exporter protocol: a function that writes pairs in another layout."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from reelnest.implementations import Implementations


@dataclass(frozen=True)
class Item:
    """A side of a pair, or one of its negatives."""

    text: str | None
    video: Path | None
    """The absolute path of a video file. Either this or the text is None."""

    @property
    def kind(self) -> str:
        """`text` or `video`."""
        return "text" if self.video is None else "video"


@dataclass(frozen=True)
class ExportedPair:
    """A usable pair of the data."""

    split: str
    query: Item
    target: Item
    negatives: tuple[Item, ...]


class Exporter(Protocol):
    """Writes one layout."""

    def __call__(self, pairs: Iterable[ExportedPair]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the records of the layout, each with the name of its file of JSON lines, relative to the new folder."""


EXPORTERS: Implementations[Exporter] = Implementations("exporter", "reelnest.records.exporters")
"""Exporters by name. Register a function with `@EXPORTERS.register("name")`, in this package or before `export_data` is called."""
