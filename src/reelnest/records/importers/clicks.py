"""A click log, with a map of its columns: CSV, TSV, JSON lines or Parquet. Clicks become grades, corrected for the position of the result.

The source is a JSON file with the map:

    {"table": "log.parquet", "videos": "clips", "query": "q", "item": "file", "position": "rank", "clicked": "click", "user": "visitor"}

A row is a result that was shown, and whether it was clicked: `position` from 1, `clicked`, and `session` or `user`, or both. Or it has
counts: `impressions` and `clicks`, with or without `position`. `time` is optional in both. An item is the name of a video file, with or
without suffix; or a video_id, if `videos` is a folder in this project's format. `table` can be a folder of Parquet files, such as the click
log of `reelnest serve`. `reelnest.records.clicks` does the counting.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reelnest.errors import DataError, VideoError
from reelnest.records.captioned_clips import SUFFIXES, find_video, other_file
from reelnest.records.clicks.click_log import Names, read_click_log
from reelnest.records.clicks.filters import without_floods
from reelnest.records.clicks.grades import LEAST_CLICKS, Graded, collect_evidence, grade
from reelnest.records.clicks.propensities import estimate_propensities
from reelnest.records.clicks.windows import split_log
from reelnest.records.files.safe_paths import is_file, resolve
from reelnest.records.formats import SPLITS, VIDEOS_FILE, Video, file_names, parse_video, read_records
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, PairRow, Row, VideoRow
from reelnest.records.tables.column_map import ColumnMap, read_map

OPTIONAL = ("position", "clicked", "session", "user", "impressions", "clicks", "time")

log = logging.getLogger(__name__)


@IMPORTERS.register("clicks")
def read_clicks(source: Path) -> Iterator[Row]:
    """A click log, by a JSON file that maps its columns; clicks become grades and hard negatives, corrected for the position."""
    yield from graded_clicks(read_map(source, ("query", "item"), OPTIONAL))


def graded_clicks(columns: ColumnMap) -> Iterator[Row]:
    """Yields the videos and the graded pairs of a click log. Raises DataError if it has too few clicks."""
    _check_form(columns)
    rows, names = yield from read_click_log(columns)
    rows, removed = without_floods(rows)
    if not len(rows):
        raise DataError(f"{columns.table}: all rows are those of bots. Import a log of people's searches.")
    people = len(rows)
    rows, splits = split_log(rows, names.queries)
    in_training = splits[rows.query] == 0
    try:
        propensities = estimate_propensities(rows.of(in_training) if in_training.any() else rows)
    except DataError as error:
        raise DataError(f"{columns.table}: {error}") from error
    deepest = int(rows.rank.max()) + 1
    propensities = np.pad(propensities, (0, max(deepest - len(propensities), 0)), constant_values=np.nan)
    shown = ", ".join(f"{rank}: {value:.2f}" for rank, value in enumerate(propensities) if rank and not np.isnan(value))
    log.warning(
        "%s: not used: %s rows of %s bots, %s repeated rows, %s rows outside of their query's split. Propensities of the positions: %s.",
        columns.table,
        *(f"{count:,}" for count in (removed.bot_rows, removed.bots, removed.repeated_rows, people - len(rows))),
        shown or "none, because there are no positions, so clicks are not corrected",
    )
    graded = grade(collect_evidence(rows, propensities))
    if not graded:
        raise DataError(f"{columns.table}: no item has {LEAST_CLICKS} clicks by different users for one query. Import a longer log.")
    yield from _written(graded, names, splits.tolist(), columns)


def _check_form(columns: ColumnMap) -> None:
    given = columns.columns.keys()
    shown = {"position", "clicked"} <= given and bool({"session", "user"} & given)
    counted = {"impressions", "clicks"} <= given
    if shown == counted or ("clicked" in given and counted):
        expected = "either position, clicked, and session or user; or impressions and clicks"
        raise DataError(f"{columns.source}: expected {expected}. Found {', '.join(given)}.")


def _written(graded: list[Graded], names: Names, splits: list[int], columns: ColumnMap) -> Iterator[Row]:
    items = {item: names.items[item] for pair in graded for item in (pair.item, *pair.negatives)}
    is_ours = (columns.videos / VIDEOS_FILE).is_file()
    ids = items if is_ours else {item: _id_of(name) for item, name in items.items()}
    ours = _records(columns.videos, set(items.values())) if is_ours else {}
    videos: dict[int, VideoRow | BadRow] = {}
    first: dict[str, int] = {}
    taken: set[int] = set()
    for pair in graded:
        origin = Origin(columns.table.name, pair.row)
        for item in (pair.item, *pair.negatives):
            if item in videos:
                continue
            videos[item] = _our_video(items[item], ours, columns.videos, origin) if is_ours else _video(items[item], columns.videos, origin)
            same = first.setdefault(ids[item], item)
            if same == item:
                yield videos[item]
            elif _files(videos[item]) != _files(videos[same]):
                taken.add(item)
                yield other_file(origin, ids[item], items[item], items[same])
        if pair.item in taken:
            continue
        record = {
            "query": {"text": names.queries[pair.query]},
            "target": {"video": ids[pair.item]},
            "relevance": pair.grade,
            "split": SPLITS[splits[pair.query]],
        }
        negatives = [{"video": ids[item]} for item in pair.negatives if item not in taken and _is_there(videos[item])]
        yield PairRow(origin, {**record, "negatives": negatives} if negatives else record)


def _files(video: VideoRow | BadRow) -> Mapping[str, Path]:
    return video.files if isinstance(video, VideoRow) else {}


def _is_there(video: VideoRow | BadRow) -> bool:
    return isinstance(video, VideoRow) and all(map(is_file, video.files.values()))


def _id_of(item: str) -> str:
    return item.removesuffix(Path(item).suffix) if Path(item).suffix.lower() in SUFFIXES else item


def _video(item: str, folder: Path, origin: Origin) -> VideoRow | BadRow:
    try:
        file = find_video(folder, item)
    except VideoError as error:
        return BadRow(origin, error.reason, str(error), _id_of(item))
    path = f"videos/{_id_of(item)}{file.suffix}"
    return VideoRow(origin, {"video_id": _id_of(item), "path": path}, {path: file})


def _records(folder: Path, ids: set[str]) -> dict[str, tuple[dict[str, Any], Video]]:
    """Returns the records of the videos of these ids, in a folder of this project's format."""
    records: dict[str, tuple[dict[str, Any], Video]] = {}

    def read(record: dict[str, Any], line: int) -> None:
        if record.get("video_id") in ids:
            records.setdefault(record["video_id"], (record, parse_video(record, folder, line)))

    read_records(folder, VIDEOS_FILE, read)
    return records


def _our_video(item: str, records: dict[str, tuple[dict[str, Any], Video]], folder: Path, origin: Origin) -> VideoRow | BadRow:
    if item not in records:
        return BadRow(origin, "missing", f"there is no video {item} in {folder / VIDEOS_FILE}: it was removed, or is not valid", item)
    record, video = records[item]
    try:
        return VideoRow(origin, record, {name: resolve(name, folder) for name in file_names(video)})
    except VideoError as error:
        return BadRow(origin, error.reason, str(error), item)
