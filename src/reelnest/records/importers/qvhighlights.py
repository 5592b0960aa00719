"""QVHighlights: JSON lines with `train`, `val` or `test` in the file names. A query is paired with its whole clip.

The relevant windows are not used. Clips of one YouTube video are never in two splits.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reelnest.records.captioned_clips import Clip, clip_rows, each, field_of, split_entries, youtube_id
from reelnest.records.importers.importer import IMPORTERS, Origin, Row

LAYOUT = 'JSON lines with train, val or test in their names, with "qid", "query" and "vid"'


@IMPORTERS.register("qvhighlights")
def read_qvhighlights(source: Path) -> Iterator[Row]:
    """QVHighlights: highlight_train_release.jsonl and others; a query is paired with its whole clip."""
    yield from clip_rows(source, each(split_entries(source, ".jsonl", LAYOUT), _clip))


def _clip(origin: Origin, entry: Any, split: str) -> Clip:
    video_id, query = field_of(entry, "vid", str), field_of(entry, "query", str)
    return Clip(origin, video_id, video_id, [(query, origin)], split, youtube_id(video_id))
