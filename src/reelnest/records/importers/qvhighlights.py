"""QVHighlights: JSON lines with `train`, `val` or `test` in the file names. A query is paired with its whole clip.

The relevant windows are not used. Clips of one YouTube video are never in two splits.
"""

from collections.abc import Iterator
from pathlib import Path

from reelnest.records.importers.clips import Clip, clip_rows, field_of, read_json_lines, split_files, youtube_id
from reelnest.records.importers.importer import IMPORTERS, BadRow, Row

LAYOUT = 'JSON lines with train, val or test in their names, with "qid", "query" and "vid"'


@IMPORTERS.register("qvhighlights")
def read_qvhighlights(source: Path) -> Iterator[Row]:
    """QVHighlights: highlight_train_release.jsonl and others; a query is paired with its whole clip."""
    clips: list[Clip] = []
    for split, file in split_files(source, ".jsonl", LAYOUT):
        for row in read_json_lines(file):
            if isinstance(row, BadRow):
                yield row
                continue
            origin, entry = row
            video_id, query = (field_of(entry, name, str, origin) for name in ("vid", "query"))
            if isinstance(video_id, BadRow) or isinstance(query, BadRow):
                yield video_id if isinstance(video_id, BadRow) else query
                continue
            clips.append(Clip(origin, video_id, video_id, [(query, origin)], split, youtube_id(video_id)))
    yield from clip_rows(source, clips)
