"""DiDeMo: `train_data.json`, `val_data.json` and `test_data.json`. A video's descriptions are joined to one text, as retrieval does.

Their times (units of five seconds) are not used: a pair is about the whole video.
"""

from collections.abc import Iterator
from pathlib import Path

from reelnest.records.importers.clips import Clip, clip_rows, field_of, read_json, split_files
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, Row

LAYOUT = 'train_data.json, val_data.json and test_data.json, each a list of objects with "video" and "description"'


@IMPORTERS.register("didemo")
def read_didemo(source: Path) -> Iterator[Row]:
    """DiDeMo: train_data.json, val_data.json and test_data.json; the sentences of a video are joined."""
    clips: list[Clip] = []
    for split, file in split_files(source, "_data.json", LAYOUT):
        joined: dict[str, tuple[Origin, list[str]]] = {}
        for number, entry in enumerate(read_json(file, list, LAYOUT), start=1):
            origin = Origin(file.name, number)
            video, text = (field_of(entry, name, str, origin) for name in ("video", "description"))
            if isinstance(video, BadRow) or isinstance(text, BadRow):
                yield video if isinstance(video, BadRow) else text
            else:
                joined.setdefault(video, (origin, []))[1].append(text.strip())
        for video, (origin, sentences) in joined.items():
            clips.append(Clip(origin, Path(video).stem, video, [(" ".join(sentences), origin)], split, Path(video).stem))
    yield from clip_rows(source, clips)
