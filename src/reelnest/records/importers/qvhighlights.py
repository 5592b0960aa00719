"""QVHighlights: JSON lines with `train`, `val` or `test` in the file names.

`qvhighlights` pairs a query with its whole clip, `qvhighlights-moments` with each of its relevant windows. The published test file has
none: then the val file is the test split, as in publications. Clips of one YouTube video are never in two splits.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reelnest.records.captioned_clips import Clip, Entry, Moment, clip_rows, each, field_of, segment_times, split_entries, youtube_id
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, Row

LAYOUT = 'JSON lines with train, val or test in their names, with "qid", "query" and "vid"'

log = logging.getLogger(__name__)


@IMPORTERS.register("qvhighlights")
def read_qvhighlights(source: Path) -> Iterator[Row]:
    """QVHighlights: highlight_train_release.jsonl and others; a query is paired with its whole clip."""
    yield from clip_rows(source, each(split_entries(source, [".jsonl"], LAYOUT), _clip))


@IMPORTERS.register("qvhighlights-moments")
def read_qvhighlights_moments(source: Path) -> Iterator[Row]:
    """QVHighlights: highlight_train_release.jsonl and others; a query is paired with each of its relevant windows."""
    yield from clip_rows(source, each(_entries_with_windows(source), _clip_of_moments))


def _entries_with_windows(source: Path) -> Iterator[Entry | BadRow]:
    entries = list(split_entries(source, [".jsonl"], LAYOUT))
    of_test = [entry for entry in entries if not isinstance(entry, BadRow) and entry[2] == "test"]
    if any("relevant_windows" in record for _, record, _ in of_test):
        yield from entries
        return
    if of_test:
        log.warning("%s: not used, because it has no relevant_windows: %s; val is the test split", source, of_test[0][0].file)
    for entry in entries:
        if isinstance(entry, BadRow):
            yield entry
        elif entry[2] != "test":
            yield (*entry[:2], "test" if entry[2] == "validation" else entry[2])


def _clip(origin: Origin, entry: Any, split: str) -> Clip:
    video_id, query = field_of(entry, "vid", str), field_of(entry, "query", str)
    return Clip(origin, video_id, video_id, [(query, origin)], split, youtube_id(video_id))


def _clip_of_moments(origin: Origin, entry: Any, split: str) -> Clip:
    video_id, query = field_of(entry, "vid", str), field_of(entry, "query", str)
    windows = field_of(entry, "relevant_windows", list)
    moments = [Moment(query, origin, segment_times(window, entry.get("duration"))) for window in windows]
    return Clip(origin, video_id, video_id, (), split, youtube_id(video_id), moments=moments)
