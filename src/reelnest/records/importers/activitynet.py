"""ActivityNet Captions: `train.json` and `val_1.json`.

`activitynet` joins a video's sentences to one text about the whole video, as paragraph retrieval does. `activitynet-moments` pairs each
sentence with its segment. `val_1` is the test split, as in publications: the test set has no captions.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reelnest.errors import DataError
from reelnest.records.captioned_clips import Clip, Entry, Moment, clip_rows, each, field_of, joined, numbered, read_json, segment_times
from reelnest.records.importers.importer import IMPORTERS, Origin, Row
from reelnest.records.json_lines import RecordError

FILES = {"train.json": "train", "val_1.json": "test"}
LAYOUT = 'an object from "v_<id>" to an object with "sentences"'


@IMPORTERS.register("activitynet")
def read_activitynet(source: Path) -> Iterator[Row]:
    """ActivityNet Captions: train.json and val_1.json; the sentences of a video are joined."""
    yield from clip_rows(source, each(_entries(source), _clip))


@IMPORTERS.register("activitynet-moments")
def read_activitynet_moments(source: Path) -> Iterator[Row]:
    """ActivityNet Captions: train.json and val_1.json; each sentence is paired with its segment of the video."""
    yield from clip_rows(source, each(_entries(source), _clip_of_moments))


def _entries(source: Path) -> Iterator[Entry]:
    present = [name for name in FILES if (source / name).is_file()]
    if not present:
        raise DataError(f"{source}: expected a folder with train.json and val_1.json.")
    for name in present:
        yield from numbered(read_json(source / name, dict, LAYOUT).items(), name, FILES[name])


def _clip(origin: Origin, entry: Any, split: str) -> Clip:
    video_id, content = entry
    text = joined(field_of(content, "sentences", list), "sentences")
    return Clip(origin, video_id, video_id, [(text, origin)], split, video_id)


def _clip_of_moments(origin: Origin, entry: Any, split: str) -> Clip:
    video_id, content = entry
    sentences, times = field_of(content, "sentences", list), field_of(content, "timestamps", list)
    if len(times) != len(sentences):
        raise RecordError("wrong_layout", f"expected timestamps for each of {len(sentences)} sentences; found {len(times)}")
    timed = zip(sentences, times, strict=True)
    moments = [
        Moment(sentence.strip() if isinstance(sentence, str) else sentence, origin, segment_times(pair, content.get("duration")))
        for sentence, pair in timed
    ]
    return Clip(origin, video_id, video_id, (), split, video_id, moments=moments)
