"""DiDeMo: `train_data.json`, `val_data.json` and `test_data.json`.

`didemo` joins a video's descriptions to one text about the whole video, as retrieval does. `didemo-moments` pairs each description with
its segment: the one that most annotators chose, of equally frequent ones the first. Its times are units of five seconds.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reelnest.records.captioned_clips import Clip, Moment, clip_rows, each, field_of, segment_times, split_entries
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, Row
from reelnest.records.json_lines import RecordError, show

UNIT_SECONDS, UNITS = 5.0, 6
"""Videos were cut after 30 seconds. The last unit ends with the video."""
MOST_UNITS = 100_000
LAYOUT = 'train_data.json, val_data.json and test_data.json, each a list of objects with "video" and "description"'


@IMPORTERS.register("didemo")
def read_didemo(source: Path) -> Iterator[Row]:
    """DiDeMo: train_data.json, val_data.json and test_data.json; the sentences of a video are joined."""
    joined: dict[tuple[str, str], tuple[Origin, list[str]]] = {}
    for row in each(split_entries(source, ["_data.json"], LAYOUT), _description):
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


@IMPORTERS.register("didemo-moments")
def read_didemo_moments(source: Path) -> Iterator[Row]:
    """DiDeMo: train_data.json, val_data.json and test_data.json; each sentence is paired with its segment of the video."""
    yield from clip_rows(source, each(split_entries(source, ["_data.json"], LAYOUT), _clip_of_moment))


def _clip_of_moment(origin: Origin, entry: Any, split: str) -> Clip:
    _, video, _, text = _description(origin, entry, split)
    chosen = Counter((int(first), int(last)) for first, last in _units(entry)).most_common(1)
    if not chosen:
        raise RecordError("wrong_layout", "expected times with the units that annotators chose; found none")
    first, last = chosen[0][0]
    units = entry.get("num_segments") or UNITS
    if not _is_unit(units):
        raise RecordError("wrong_layout", f"expected num_segments with a number of units; found {show(units, 60)}")
    times = segment_times([first * UNIT_SECONDS, (last + 1) * UNIT_SECONDS], units * UNIT_SECONDS)
    video_id = Path(video).stem
    return Clip(origin, video_id, video, (), split, video_id, moments=[Moment(text.strip(), origin, times)])


def _units(entry: Any) -> list[list[int]]:
    times = field_of(entry, "times", list)
    if not all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_unit, pair)) for pair in times):
        raise RecordError("wrong_layout", f"expected times with the first and last unit of each annotator; found {show(times, 60)}")
    return times


def _is_unit(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_UNITS


def _description(origin: Origin, entry: Any, split: str) -> tuple[Origin, str, str, str]:
    return origin, field_of(entry, "video", str), split, field_of(entry, "description", str)
