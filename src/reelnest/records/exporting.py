"""The code that all exporters share: reads the data, skips what other layouts cannot express, and writes a folder atomically."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from reelnest.atomic_files import atomic_folder
from reelnest.errors import DataError, VideoError
from reelnest.records.exporters.exporter import EXPORTERS, ExportedPair, Item
from reelnest.records.files.tar_members import tar_of
from reelnest.records.formats import Pair, Side, Video, known_ids, read_pairs, read_videos, video_files
from reelnest.records.pair_segments import cut_videos, segmented_files
from reelnest.records.splits import assign_splits


@dataclass(frozen=True)
class Exported:
    """The result of `export_data`."""

    pairs: int
    lines: dict[str, int]
    """Number of lines by file."""
    skipped: Counter[str]
    """Number of pairs that were left out, by reason."""


def export_data(exporter: str, data: Path, destination: Path, validation_fraction: float, test_fraction: float) -> Exported:
    """Exports the pairs of `data` to the new folder `destination`. Video files are not copied: the lines have their absolute paths.

    Pairs of segments (`segment`), of lists of images (`images`) and of missing files (the reason of `video_files`) are left out, and so are
    bad lines (`bad_line`). Texts of videos and grades are not exported. The splits are those of a training with the same fractions.

    Raises ConfigError for an unknown exporter, DataError if the data cannot be read, the folder exists, or no pair can be exported.
    """
    write = EXPORTERS[exporter]
    if destination.exists():
        raise DataError(f"{destination} already exists. Name a new folder.")
    videos, bad_videos = read_videos(data)
    pairs, bad_pairs = read_pairs(data, known_ids(videos, bad_videos))
    cut, pairs, uncut = cut_videos(videos, pairs)
    splits = assign_splits(pairs, validation_fraction, test_fraction, segmented_files([*videos, *cut]))
    usable = _Usable(data, videos)
    if bad := len(bad_pairs) + len(uncut):
        usable.skipped["bad_line"] = bad
    lines: Counter[str] = Counter()
    with atomic_folder(destination) as folder, ExitStack() as open_files:
        opened: dict[str, IO[str]] = {}
        for name, record in write(usable.pairs(pairs, splits)):
            if name not in opened:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                opened[name] = open_files.enter_context((folder / name).open("x", encoding="utf-8"))
            opened[name].write(json.dumps(record, ensure_ascii=False) + "\n")
            lines[name] += 1
        if not lines:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in usable.skipped.most_common()) or "there are none"
            raise DataError(f"{data}: no pair can be exported ({reasons}).")
    return Exported(usable.count, dict(sorted(lines.items())), usable.skipped)


class _Usable:
    """The pairs that other layouts can express."""

    def __init__(self, data: Path, videos: list[Video]) -> None:
        self._data = data
        self._videos = {video.video_id: video for video in videos}
        self._items: dict[str, Item | str] = {}
        self.skipped: Counter[str] = Counter()
        self.count = 0

    def pairs(self, pairs: list[Pair], splits: list[str]) -> Iterator[ExportedPair]:
        for pair, split in zip(pairs, splits, strict=True):
            query, target, *negatives = map(self._item, (pair.query, pair.target, *pair.negatives))
            if isinstance(query, Item) and isinstance(target, Item):
                self.count += 1
                yield ExportedPair(split, query, target, tuple(item for item in negatives if isinstance(item, Item)))
            else:
                self.skipped[str(target if isinstance(query, Item) else query)] += 1

    def _item(self, side: Side) -> Item | str:
        """Returns the item, or the reason for which there is none."""
        if side.kind == "text":
            return Item(side.value, None)
        if side.segment is not None:
            return "segment"
        if side.value not in self._items:
            self._items[side.value] = self._video(side.value)
        return self._items[side.value]

    def _video(self, video_id: str) -> Item | str:
        video = self._videos.get(video_id)
        if video is None:
            return "bad_video"
        if video.path is None or video.segment is not None:
            return "images" if video.path is None else "segment"
        try:
            file = video_files(video, self._data)[0]
            return "in_tar" if tar_of(file) is not None else Item(None, file)
        except VideoError as error:
            return error.reason
