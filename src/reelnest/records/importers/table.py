"""A table of search texts and video files, with a map of its columns: CSV, TSV, JSON lines or Parquet.

The source is a JSON file with the map, beside the table or above it:

    {"table": "clicks.parquet", "videos": "clips", "query": "search_text", "video": "file"}

`videos` is the folder of the files, by default that of the map. `query` and `video` name columns. Optional columns: `video_id` (by default
the file's name without suffix), `group` (videos of one group are never in two splits), `split`, `relevance`, and the text fields.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reelnest.errors import DataError, VideoError
from reelnest.records.formats import TEXT_FIELDS
from reelnest.records.importers.clips import find_video, group_split, read_json_lines, read_table
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, PairRow, Row, VideoRow
from reelnest.records.tables.column_map import read_map

REQUIRED = ("query", "video")
OPTIONAL = ("video_id", "group", "split", "relevance", *TEXT_FIELDS)


@IMPORTERS.register("table")
def read_mapped_table(source: Path) -> Iterator[Row]:
    """A CSV, JSON lines or Parquet table; the source is a JSON file that maps its columns."""
    columns = read_map(source, REQUIRED, OPTIONAL)
    table, folder, names = columns.table, columns.videos, columns.columns
    seen: set[str] = set()
    for row in _rows(table, list(names.values())):
        if isinstance(row, BadRow):
            yield row
            continue
        origin, record = row
        values = {key: record.get(name) for key, name in names.items()}
        if not isinstance(values["video"], str) or not values["video"]:
            yield BadRow(origin, "no_path", f"the column {names['video']} is empty; expected the name of a video file")
            continue
        video_id = str(values.get("video_id") or Path(values["video"]).stem)
        if video_id not in seen:
            seen.add(video_id)
            yield _video(origin, video_id, values, folder)
        yield _pair(origin, video_id, values)


def _rows(table: Path, columns: list[str]) -> Iterator[tuple[Origin, dict[str, Any]] | BadRow]:
    if table.suffix in (".csv", ".tsv"):
        yield from read_table(table, columns)
    elif table.suffix in (".jsonl", ".ndjson"):
        yield from read_json_lines(table)
    elif table.suffix == ".parquet":
        yield from _parquet(table, columns)
    else:
        raise DataError(f"{table}: expected .csv, .tsv, .jsonl or .parquet.")


def _parquet(table: Path, columns: list[str]) -> Iterator[tuple[Origin, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(table) as opened:
            if missing := [column for column in columns if column not in opened.schema_arrow.names]:
                raise DataError(f"{table}: there is no column {missing[0]}; its columns are {', '.join(opened.schema_arrow.names)}.")
            number = 0
            for batch in opened.iter_batches(columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield Origin(table.name, number), record
    except pa.ArrowInvalid as error:
        raise DataError(f"{table}: not readable as Parquet: {error}. Write it again.") from error


def _video(origin: Origin, video_id: str, values: dict[str, Any], folder: Path) -> VideoRow | BadRow:
    try:
        file = find_video(folder, values["video"])
    except VideoError as error:
        return BadRow(origin, error.reason, str(error), video_id)
    path = f"videos/{values['video']}"
    fields = {name: str(values[name]) for name in TEXT_FIELDS if values.get(name)}
    return VideoRow(origin, {"video_id": video_id, "path": path, **fields}, {path: file})


def _pair(origin: Origin, video_id: str, values: dict[str, Any]) -> PairRow | BadRow:
    record: dict[str, Any] = {"query": {"text": values["query"]}, "target": {"video": video_id}}
    if values.get("split"):
        record["split"] = values["split"]
    elif values.get("group"):
        record["split"] = group_split(str(values["group"]))
    if values.get("relevance") not in (None, ""):
        try:
            record["relevance"] = float(values["relevance"])
        except (TypeError, ValueError):
            return BadRow(origin, "bad_relevance", f"relevance is {values['relevance']!r}; expected a number")
    return PairRow(origin, record)
