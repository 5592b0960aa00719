"""ActivityNet Captions: `train.json` and `val_1.json`. A video's sentences are joined to one text, as paragraph retrieval does.

`val_1` is the test split, as in publications: the test set has no captions. Time stamps are not used: a pair is about the whole video.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reelnest.errors import DataError
from reelnest.records.captioned_clips import Clip, Entry, clip_rows, each, field_of, numbered, read_json
from reelnest.records.importers.importer import IMPORTERS, Origin, Row

FILES = {"train.json": "train", "val_1.json": "test"}
LAYOUT = 'an object from "v_<id>" to an object with "sentences"'


@IMPORTERS.register("activitynet")
def read_activitynet(source: Path) -> Iterator[Row]:
    """ActivityNet Captions: train.json and val_1.json; the sentences of a video are joined."""
    present = [name for name in FILES if (source / name).is_file()]
    if not present:
        raise DataError(f"{source}: expected train.json and val_1.json.")
    yield from clip_rows(source, each(_entries(source, present), _clip))


def _entries(source: Path, names: list[str]) -> Iterator[Entry]:
    for name in names:
        yield from numbered(read_json(source / name, dict, LAYOUT).items(), name, FILES[name])


def _clip(origin: Origin, entry: Any, split: str) -> Clip:
    video_id, content = entry
    text = " ".join(str(sentence).strip() for sentence in field_of(content, "sentences", list))
    return Clip(origin, video_id, video_id, [(text, origin)], split, video_id)
