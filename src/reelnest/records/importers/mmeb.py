"""The video sets of MMEB-V2, downloaded from the Hugging Face Hub: Parquet files, JSON lines or lists in JSON.

Their names, or those of their folders, have train, val or test. Sets are such as
`VLM2Vec/MSR-VTT` and `VLM2Vec/MSVD` (`video_id`, `video`, `caption`), `VLM2Vec/DiDeMo` (`video`, `caption`) and `VLM2Vec/VATEX`
(`videoID`, `enCap`). A caption is a text or a list of texts, each of which is a query. If there is a `url`, clips of one are never in two
splits.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from reelnest.errors import DataError
from reelnest.records.captioned_clips import (
    Clip,
    Entry,
    clip_rows,
    each,
    entries_of,
    field_of,
    splits_of,
    texts,
    without_suffix,
    youtube_id,
)
from reelnest.records.files.safe_paths import is_file
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, Row
from reelnest.records.json_lines import RecordError, show
from reelnest.records.tables.batches import parquet_columns, read_rows

LAYOUT = (
    "Parquet files, JSON lines or lists in JSON with train, val or test in their names,"
    " with “video” and “caption”, or “videoID” and “enCap”"
)
SUFFIXES = ((".parquet", ".jsonl"), (".json",))
ID_KEYS, CAPTION_KEYS = ("video_id", "videoID", "video"), ("caption", "enCap")


@IMPORTERS.register("mmeb")
def read_mmeb(source: Path) -> Iterator[Row]:
    """MMEB-V2's video sets: Parquet, JSON lines or lists in JSON with video_id, video and caption; each caption is a query."""
    present = ([file for suffix in suffixes for file in source.rglob(f"*{suffix}") if is_file(file)] for suffixes in SUFFIXES)
    files = splits_of(next(filter(None, present), []), source)  # beside Parquet files there are descriptions in JSON
    if not files:
        raise DataError(f"{source}: expected a folder with {LAYOUT}.")
    yield from clip_rows(source, each((entry for split, file in files for entry in _entries(file, split)), _clip))


def _entries(file: Path, split: str) -> Iterator[Entry | BadRow]:
    if file.suffix != ".parquet":
        yield from entries_of(file, split, LAYOUT)
        return
    names = parquet_columns(file)
    chosen = [name for name in (*ID_KEYS, *CAPTION_KEYS, "url") if name in names]
    yield from (row if isinstance(row, BadRow) else (*row, split) for row in read_rows(file, chosen))


def _clip(origin: Origin, entry: dict[str, Any], split: str) -> Clip:
    key = next((key for key in ID_KEYS if key in entry), "video")
    name = field_of(entry, key, str)
    caption = next((entry[key] for key in CAPTION_KEYS if entry.get(key)), None)
    if not isinstance(caption, str | list):
        raise RecordError("wrong_layout", f"found {show(sorted(entry))}; expected video_id or video, and caption, a text or a list")
    video_id = PurePosixPath(without_suffix(name)).name if key == "video" else name
    file = entry["video"] if isinstance(entry.get("video"), str) else name
    captions = texts([caption] if isinstance(caption, str) else caption, origin)
    return Clip(origin, video_id, file, captions, split, str(entry.get("url") or youtube_id(video_id)))
