"""ActivityNet Captions: `train.json` and `val_1.json`. A video's sentences are joined to one text, as paragraph retrieval does.

`val_1` is the test split, as in publications: the test set has no captions. Time stamps are not used: a pair is about the whole video.
"""

from collections.abc import Iterator
from pathlib import Path

from reelnest.errors import DataError
from reelnest.records.importers.clips import Clip, clip_rows, field_of, read_json
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, Row

FILES = {"train.json": "train", "val_1.json": "test"}
LAYOUT = 'an object from "v_<id>" to an object with "sentences"'


@IMPORTERS.register("activitynet")
def read_activitynet(source: Path) -> Iterator[Row]:
    """ActivityNet Captions: train.json and val_1.json; the sentences of a video are joined."""
    present = [name for name in FILES if (source / name).is_file()]
    if not present:
        raise DataError(f"{source}: expected train.json and val_1.json.")
    clips: list[Clip] = []
    for name in present:
        for number, (video_id, entry) in enumerate(read_json(source / name, dict, LAYOUT).items(), start=1):
            origin = Origin(name, number)
            sentences = field_of(entry, "sentences", list, origin)
            if isinstance(sentences, BadRow):
                yield sentences
                continue
            text = " ".join(str(sentence).strip() for sentence in sentences)
            clips.append(Clip(origin, video_id, video_id, [(text, origin)], FILES[name], video_id))
    yield from clip_rows(source, clips)
