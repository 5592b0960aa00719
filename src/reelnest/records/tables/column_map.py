"""The map of a table's columns: a JSON file beside the table or above it.

    {"table": "rows.parquet", "videos": "clips", "query": "search_text", "video": "file"}

`videos` is the folder of the video files, by default that of the map. All other keys but `table` name columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reelnest.errors import DataError, VideoError
from reelnest.records.captioned_clips import read_json
from reelnest.records.files.safe_paths import resolve


@dataclass(frozen=True)
class ColumnMap:
    """A table, its columns by key, and the folder of its video files."""

    source: Path
    table: Path
    videos: Path
    columns: dict[str, str]
    """Column by key of the map."""


def read_map(source: Path, required: Sequence[str], optional: Sequence[str]) -> ColumnMap:
    """Reads a map. Raises DataError for an unknown or a missing key, and if there is no such table."""
    layout = f'an object with {", ".join(show_key(key) for key in ("table", *required))}; optional: "videos", {", ".join(optional)}'
    content: dict[str, str] = read_json(source, dict, layout)
    if unknown := sorted(set(content) - {"table", "videos", *required, *optional}):
        raise DataError(f"{source}: unknown key {unknown[0]}; expected {layout}.")
    for key in ("table", *required, *(key for key in content if key not in ("table", *required))):
        if not isinstance(content.get(key), str):
            raise DataError(f"{source}: there is no {key}; expected {layout}.")
    try:
        table = resolve(content["table"], source.parent)
        folder = resolve(content.get("videos", "."), source.parent)
    except VideoError as error:
        raise DataError(f"{source}: {error}") from error
    if not table.exists():
        raise DataError(f"{table}: there is no such file or folder; correct table in {source}.")
    return ColumnMap(source, table, folder, {key: content[key] for key in (*required, *optional) if key in content})


def show_key(key: str) -> str:
    """Returns a key as it is written in the map."""
    return f'"{key}"'
