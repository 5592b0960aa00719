"""VATEX: JSON files with `train`, `val` or `test` in their names, each a list of clips with English and Chinese captions."""

from collections.abc import Iterator
from pathlib import Path

from reelnest.records.importers.clips import Clip, clip_rows, field_of, read_json, split_files, texts, youtube_id
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, Row

LAYOUT = 'JSON files with train, val or test in their names, each a list of objects with "videoID" and "enCap"'


@IMPORTERS.register("vatex")
def read_vatex(source: Path) -> Iterator[Row]:
    """VATEX: JSON files of the splits; each caption of enCap and chCap is a query."""
    clips: list[Clip] = []
    for split, file in split_files(source, ".json", LAYOUT):
        for number, entry in enumerate(read_json(file, list, LAYOUT), start=1):
            origin = Origin(file.name, number)
            video_id, english = field_of(entry, "videoID", str, origin), field_of(entry, "enCap", list, origin)
            if isinstance(video_id, BadRow) or isinstance(english, BadRow):
                yield video_id if isinstance(video_id, BadRow) else english
                continue
            chinese = entry.get("chCap")
            captions = texts([*english, *(chinese if isinstance(chinese, list) else ())], origin)
            clips.append(Clip(origin, video_id, video_id, captions, split, youtube_id(video_id)))
    yield from clip_rows(source, clips)
