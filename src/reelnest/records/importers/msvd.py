"""MSVD: JSON lines as on the Hugging Face Hub, with `video_id`, `video` and `caption`, a list, and the split in the file name.

The original `raw-captions.pkl` is refused: a pickle can run code when it is opened.
"""

from collections.abc import Iterator
from pathlib import Path

from reelnest.errors import DataError
from reelnest.records.importers.clips import Clip, clip_rows, field_of, read_json_lines, split_files, texts
from reelnest.records.importers.importer import IMPORTERS, BadRow, Row

PICKLE = "raw-captions.pkl"
LAYOUT = 'JSON lines with train, val or test in their names, with "video_id", "video" and "caption", a list'


@IMPORTERS.register("msvd")
def read_msvd(source: Path) -> Iterator[Row]:
    """MSVD: JSON lines with video_id, video and caption, a list; each caption is a query."""
    if (source / PICKLE).is_file() and not list(source.glob("*.jsonl")):
        raise DataError(f"{source / PICKLE}: a pickle, which could run code when opened. Use the layout of the Hugging Face Hub: {LAYOUT}.")
    clips: list[Clip] = []
    for split, file in split_files(source, ".jsonl", LAYOUT):
        for row in read_json_lines(file):
            if isinstance(row, BadRow):
                yield row
                continue
            origin, entry = row
            video_id, captions = field_of(entry, "video_id", str, origin), field_of(entry, "caption", list, origin)
            if isinstance(video_id, BadRow) or isinstance(captions, BadRow):
                yield video_id if isinstance(video_id, BadRow) else captions
                continue
            name = entry.get("video")
            clips.append(Clip(origin, video_id, name if isinstance(name, str) else video_id, texts(captions, origin), split, video_id))
    yield from clip_rows(source, clips)
