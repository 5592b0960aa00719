"""A table of search texts and video files, with a map of its columns: CSV, TSV, JSON lines or Parquet.

The source is a JSON file with the map, beside the table or above it:

    {"table": "clicks.parquet", "videos": "clips", "query": "search_text", "video": "file"}

`videos` is the folder of the files, by default that of the map. `query` and `video` name columns. Optional columns: `video_id` (by default
the file's name without suffix; rows with another file of the same id are not used), `group` (videos of one group are never in two splits),
`split`, `relevance`, and the text fields.
"""

import functools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reelnest.errors import VideoError
from reelnest.prefetch import prefetched
from reelnest.records.captioned_clips import find_video, group_split, other_file
from reelnest.records.formats import SPLITS, TEXT_FIELDS
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, PairColumns, PairRow, Row, VideoRow
from reelnest.records.json_lines import show, show_kind
from reelnest.records.tables.batches import ColumnBatch, read_batches
from reelnest.records.tables.column_map import read_map
from reelnest.records.tables.pair_lines import by_value

if TYPE_CHECKING:
    import pyarrow as pa

Mask = NDArray[np.bool_]

REPEATED_NAMES = 2**14
"""File names whose stem is remembered, because each batch of rows repeats many."""
REQUIRED = ("query", "video")
OPTIONAL = ("video_id", "group", "split", "relevance", *TEXT_FIELDS)


@IMPORTERS.register("table")
def read_mapped_table(source: Path) -> Iterator[Row]:
    """A CSV, JSON lines or Parquet table; the source is a JSON file that maps its columns."""
    columns = read_map(source, REQUIRED, OPTIONAL)
    names = columns.columns
    videos = _Videos(columns.videos)
    numbers = [names["relevance"]] if "relevance" in names else []
    batches = read_batches(columns.table, list(dict.fromkeys(names.values())), numbers)
    # Reading takes as long as writing, and Arrow reads without Python's lock.
    with closing(prefetched(batches, lambda batch: batch)) as ahead:
        for batch in ahead:
            if isinstance(batch, BadRow):
                yield batch
            elif isinstance(batch, ColumnBatch):
                values = {key: batch.columns[name] for key, name in names.items()}
                by_column = _are_texts(values) and _have_one_split(values, videos.splits)
                yield from (_text_rows if by_column else _other_rows)(batch, names, videos)
            else:
                origin, record = batch
                yield from _row(origin, {key: record.get(name) for key, name in names.items()}, names, videos)


class _Videos:
    """Yields each video once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.names: dict[str, str] = {}
        """The first name of the file of each video_id."""
        self.splits: dict[str, str] = {}
        """The split of each group, by its first row."""
        self._same: dict[tuple[str, str], bool] = {}

    def conflict(self, origin: Origin, video_id: str, name: str) -> BadRow | None:
        """Returns the bad row if the video_id is that of another file; None otherwise."""
        first = self.names.setdefault(video_id, name)
        if first != name and (video_id, name) not in self._same:
            try:
                self._same[video_id, name] = find_video(self._folder, first) == find_video(self._folder, name)
            except VideoError:
                self._same[video_id, name] = False
        return None if first == name or self._same[video_id, name] else other_file(origin, video_id, name, first)

    def new(self, origin: Origin, video_id: str, values: dict[str, Any]) -> Iterator[VideoRow | BadRow]:
        if video_id in self.names:
            return
        self.names[video_id] = values["video"]
        try:
            file = find_video(self._folder, values["video"])
        except VideoError as error:
            yield BadRow(origin, error.reason, str(error), video_id)
            return
        path = f"videos/{values['video']}"
        given = {name: values[name] for name in TEXT_FIELDS if values.get(name)}
        fields = {name: str(value) if isinstance(value, int | float) else value for name, value in given.items()}
        yield VideoRow(origin, {"video_id": video_id, "path": path, **fields}, {path: file})


def _are_texts(values: dict[str, "pa.Array"]) -> bool:
    import pyarrow as pa

    return all(
        not pa.types.is_nested(column.type) if key == "relevance" else pa.types.is_string(column.type) for key, column in values.items()
    )


def _text_rows(batch: ColumnBatch, names: dict[str, str], videos: _Videos) -> Iterator[Row]:
    """Yields the rows of a batch whose columns are texts, column by column."""
    from pyarrow import compute

    values = {key: batch.columns[name] for key, name in names.items()}
    has_video = _given(values["video"]).is_valid().to_numpy(zero_copy_only=False)
    bad = [_without_video(Origin(batch.file, int(row)), names) for row in batch.rows[~has_video]]
    rows, values = _filtered(has_video, batch.rows, values)
    video_ids = by_value(values["video"], _stem)
    if "video_id" in values:
        video_ids = compute.coalesce(_given(values["video_id"]), video_ids)
    for video_id, at in _first_places(video_ids):
        if video_id not in videos.names:
            yield from videos.new(Origin(batch.file, int(rows[at])), video_id, {key: values[key][at].as_py() for key in values})
    values["video_id"] = video_ids
    differs = compute.not_equal(values["video"], by_value(video_ids, videos.names.get)).to_numpy(zero_copy_only=False)
    for place in np.flatnonzero(differs).tolist():
        duplicate = videos.conflict(Origin(batch.file, int(rows[place])), video_ids[place].as_py(), values["video"][place].as_py())
        bad += [duplicate] if duplicate is not None else []
        differs[place] = duplicate is not None
    rows, values = _filtered(~differs, rows, values)
    if "relevance" in values:
        given = values["relevance"]
        values["relevance"], is_number = _grades(given)
        bad += [_without_grade(Origin(batch.file, int(rows[at])), given[int(at)].as_py()) for at in np.flatnonzero(~is_number)]
        rows, values = _filtered(is_number, rows, values)
    yield from sorted(bad, key=lambda row: row.origin.row)
    splits = [_given(values["split"])] if "split" in values else []
    splits += [by_value(_given(values["group"]), group_split)] if "group" in values else []
    yield PairColumns(
        batch.file, rows, values["query"], values["video_id"], compute.coalesce(*splits) if splits else None, values.get("relevance")
    )


@functools.lru_cache(REPEATED_NAMES)
def _stem(name: str) -> str:
    return Path(name).stem


def _given(column: "pa.Array") -> "pa.Array":
    """Returns the texts of a column, null if they are empty."""
    import pyarrow as pa
    from pyarrow import compute

    return compute.if_else(compute.not_equal(column, ""), column, pa.scalar(None, pa.string()))


def _have_one_split(values: dict[str, "pa.Array"], splits: dict[str, str]) -> bool:
    """Returns whether each group has one split, which it also has in `splits`, and adds it there. True without both columns."""
    import pyarrow as pa

    if not {"group", "split"} <= values.keys():
        return True
    columns = pa.table([_given(values["group"]), _given(values["split"])], names=["group", "split"])
    distinct = columns.group_by(["group", "split"], use_threads=False).aggregate([]).to_pydict()
    of_group: dict[str, str] = {}
    for group, split in zip(distinct["group"], distinct["split"], strict=True):
        if group is None:
            continue
        if split not in SPLITS or splits.get(group, split) != split or of_group.setdefault(group, split) != split:
            return False
    splits.update(of_group)
    return True


def _filtered(mask: Mask, rows: NDArray[np.int64], values: dict[str, "pa.Array"]) -> tuple[NDArray[np.int64], dict[str, "pa.Array"]]:
    import pyarrow as pa

    if mask.all():
        return rows, values
    return rows[mask], {key: column.filter(pa.array(mask)) for key, column in values.items()}


def _first_places(column: "pa.Array") -> Iterator[tuple[str, int]]:
    """Returns each distinct value, and where it is first."""
    encoded = column.dictionary_encode()
    first = np.empty(len(encoded.dictionary), dtype=np.int64)
    backwards = np.arange(len(column))[::-1]
    first[encoded.indices.to_numpy()[backwards]] = backwards  # of several places the last one written remains, which is the first
    return zip(encoded.dictionary.to_pylist(), first.tolist(), strict=True)  # values are numbered in the order of their first places


def _grades(column: "pa.Array") -> tuple["pa.Array", Mask]:
    """Returns the grades of a column, and whether each is a number or absent."""
    import pyarrow as pa

    encoded = column.dictionary_encode()
    grades: list[float | None] = []
    is_number: list[bool] = []
    for value in (*encoded.dictionary.to_pylist(), None):
        try:
            grades.append(_grade(value))
            is_number.append(True)
        except (TypeError, ValueError, OverflowError):
            grades.append(None)
            is_number.append(False)
    places = encoded.indices.fill_null(len(grades) - 1)
    return pa.array(grades, pa.float64()).take(places), np.array(is_number)[places.to_numpy()]


def _grade(value: Any) -> float | None:
    return None if value in (None, "") else float(value)


def _other_rows(batch: ColumnBatch, names: dict[str, str], videos: _Videos) -> Iterator[Row]:
    """Yields the rows of a batch with other columns than texts, one by one."""
    columns = {key: batch.columns[name].to_pylist() for key, name in names.items()}
    for at, row in enumerate(batch.rows):
        yield from _row(Origin(batch.file, int(row)), {key: column[at] for key, column in columns.items()}, names, videos)


def _row(origin: Origin, values: dict[str, Any], names: dict[str, str], videos: _Videos) -> Iterator[Row]:
    if not isinstance(values["video"], str) or not values["video"]:
        yield _without_video(origin, names, values["video"])
        return
    video_id = str(values.get("video_id") or Path(values["video"]).stem)
    yield from videos.new(origin, video_id, values)
    if (duplicate := videos.conflict(origin, video_id, values["video"])) is not None:
        yield duplicate
        return
    record: dict[str, Any] = {"query": {"text": values["query"]}, "target": {"video": video_id}}
    split, group = values.get("split") or None, values.get("group")
    if group and (split is None or split in SPLITS):
        of_group = videos.splits.setdefault(str(group), split or group_split(str(group)))
        if split not in (None, of_group):
            detail = f"its group {show(group)} is in the {of_group} split, because its first row is; give all rows of a group one split"
            yield BadRow(origin, "leakage", detail)
            return
        split = of_group
    if split is not None:
        record["split"] = split
    try:
        grade = _grade(values.get("relevance"))
    except (TypeError, ValueError, OverflowError):
        yield _without_grade(origin, values["relevance"])
        return
    yield PairRow(origin, record if grade is None else {**record, "relevance": grade})


def _without_video(origin: Origin, names: dict[str, str], value: Any = None) -> BadRow:
    state = "is empty" if value in (None, "") else f"has {show_kind(value)}"
    return BadRow(origin, "no_path", f"the column {names['video']} {state}; expected the name of a video file")


def _without_grade(origin: Origin, value: Any) -> BadRow:
    return BadRow(origin, "bad_relevance", f"relevance is {repr(value)[:60]}; expected a number")
