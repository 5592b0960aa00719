"""The earlier system's layout: `train_data.jsonl` with bare strings, and `video_meta.jsonl`.

`video_meta.jsonl` has a record for each video: `video_id`, `path` or `images` relative to the source folder, and text fields. Other keys
are ignored. `train_data.jsonl` has `query` and `target` as strings: one that equals a `video_id` is that video, any other is a text. The
optional keys `relevance`, `split` and `negatives` are copied.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reelnest.errors import DataError, VideoError
from reelnest.messages import some_of
from reelnest.records.files.safe_paths import resolve
from reelnest.records.formats import PAIR_KEYS, VIDEO_KEYS
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, PairRow, Row, VideoRow
from reelnest.records.json_lines import RecordError, parse_record, read_lines

PAIRS_FILE, VIDEOS_FILE = "train_data.jsonl", "video_meta.jsonl"

log = logging.getLogger(__name__)


@IMPORTERS.register("earlier")
def read_earlier_system(source: Path) -> Iterator[Row]:
    """The earlier system's folder: train_data.jsonl with bare strings, and video_meta.jsonl."""
    for name in (VIDEOS_FILE, PAIRS_FILE):
        if not (source / name).is_file():
            raise DataError(f"{source / name}: there is no such file. Expected a folder with {VIDEOS_FILE} and {PAIRS_FILE}.")
    ignored: Counter[str] = Counter()
    for row in _records(source, VIDEOS_FILE, VIDEO_KEYS, ignored):
        yield row if isinstance(row, BadRow) else _video(*row, source)
    for row in _records(source, PAIRS_FILE, PAIR_KEYS, ignored):
        yield row if isinstance(row, BadRow) else PairRow(*row)
    if ignored:
        counts = some_of([f"{key} ({count:,} rows)" for key, count in ignored.most_common()], most=10)
        log.warning("%s: these keys were ignored, because the new files do not have them: %s", source, counts)


def _records(source: Path, name: str, known: tuple[str, ...], ignored: Counter[str]) -> Iterator[tuple[Origin, dict[str, Any]] | BadRow]:
    """Yields the records of a file, with only the keys in `known`."""
    for line, raw in read_lines(source / name):
        origin = Origin(name, line)
        try:
            record = parse_record(raw)
        except RecordError as error:
            yield BadRow(origin, error.reason, str(error))
            continue
        ignored.update(f"{name}: {key}" for key in record if key not in known)
        yield origin, {key: value for key, value in record.items() if key in known}


def _video(origin: Origin, record: dict[str, Any], source: Path) -> VideoRow | BadRow:
    images = record.get("images")
    names = [record.get("path"), *(images if isinstance(images, list) else [])]
    try:
        files = {name: resolve(name, source) for name in names if isinstance(name, str)}
    except VideoError as error:
        video_id = record.get("video_id")
        return BadRow(origin, error.reason, str(error), video_id if isinstance(video_id, str) else None)
    return VideoRow(origin, record, files)
