"""VATEX: JSON files with `train`, `val` or `test` in their names, each a list of clips with English and Chinese captions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reelnest.records.captioned_clips import Clip, clip_rows, each, field_of, split_entries, texts, youtube_id
from reelnest.records.importers.importer import IMPORTERS, Origin, Row

LAYOUT = 'JSON files with train, val or test in their names, each a list of objects with "videoID" and "enCap"'


@IMPORTERS.register("vatex")
def read_vatex(source: Path) -> Iterator[Row]:
    """VATEX: JSON files of the splits; each caption of enCap and chCap is a query."""
    yield from clip_rows(source, each(split_entries(source, [".json"], LAYOUT), _clip))


def _clip(origin: Origin, entry: Any, split: str) -> Clip:
    video_id, chinese = field_of(entry, "videoID", str), entry.get("chCap")
    captions = [*field_of(entry, "enCap", list), *(chinese if isinstance(chinese, list) else ())]
    return Clip(origin, video_id, video_id, texts(captions, origin), split, youtube_id(video_id))
