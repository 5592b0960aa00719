"""MSVD as on the Hugging Face Hub: JSON lines or lists in JSON with `video_id`, `video` and `caption`, a list, and the split in the name.

The original `raw-captions.pkl` is refused: a pickle can run code when it is opened.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reelnest.errors import DataError
from reelnest.records.captioned_clips import Clip, clip_rows, each, field_of, split_entries, texts, youtube_id
from reelnest.records.importers.importer import IMPORTERS, Origin, Row

PICKLE = "raw-captions.pkl"
SUFFIXES = (".jsonl", ".json")
LAYOUT = 'JSON lines, or lists in JSON, with train, val or test in their names, with "video_id", "video" and "caption", a list'


@IMPORTERS.register("msvd")
def read_msvd(source: Path) -> Iterator[Row]:
    """MSVD: JSON lines or lists in JSON with video_id, video and caption, a list; each caption is a query."""
    if (source / PICKLE).is_file() and not any(file.suffix in SUFFIXES for file in source.iterdir()):
        raise DataError(f"{source / PICKLE}: a pickle, which could run code when opened. Use the layout of the Hugging Face Hub: {LAYOUT}.")
    yield from clip_rows(source, each(split_entries(source, SUFFIXES, LAYOUT), _clip))


def _clip(origin: Origin, entry: Any, split: str) -> Clip:
    video_id, name = field_of(entry, "video_id", str), entry.get("video")
    captions = texts(field_of(entry, "caption", list), origin)
    return Clip(origin, video_id, name if isinstance(name, str) else video_id, captions, split, youtube_id(video_id))
