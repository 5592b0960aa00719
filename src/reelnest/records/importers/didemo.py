"""DiDeMo: `train_data.json`, `val_data.json` and `test_data.json`. A video's descriptions are joined to one text, as retrieval does.

Their times (units of five seconds) are not used: a pair is about the whole video.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reelnest.records.captioned_clips import Clip, clip_rows, each, field_of, split_entries
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, Row

LAYOUT = 'train_data.json, val_data.json and test_data.json, each a list of objects with "video" and "description"'


@IMPORTERS.register("didemo")
def read_didemo(source: Path) -> Iterator[Row]:
    """DiDeMo: train_data.json, val_data.json and test_data.json; the sentences of a video are joined."""
    joined: dict[tuple[str, str], tuple[Origin, list[str]]] = {}
    for row in each(split_entries(source, "_data.json", LAYOUT), _description):
        if isinstance(row, BadRow):
            yield row
            continue
        origin, video, split, text = row
        joined.setdefault((split, video), (origin, []))[1].append(text.strip())
    yield from clip_rows(
        source,
        (
            Clip(origin, Path(video).stem, video, [(" ".join(sentences), origin)], split, Path(video).stem)
            for (split, video), (origin, sentences) in joined.items()
        ),
    )


def _description(origin: Origin, entry: Any, split: str) -> tuple[Origin, str, str, str]:
    return origin, field_of(entry, "video", str), split, field_of(entry, "description", str)
