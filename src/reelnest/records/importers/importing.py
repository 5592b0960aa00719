"""The code that all importers share: checks every row and writes a folder in this project's format atomically."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reelnest.atomic_files import atomic_folder, write_lines
from reelnest.errors import DataError, VideoError
from reelnest.records.formats import PAIRS_FILE, VIDEOS_FILE, parse_pair, parse_video, video_files
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, PairRow, Row, VideoRow
from reelnest.records.json_lines import RecordError, show
from reelnest.records.merging import copy_file, explicit_record
from reelnest.records.safe_paths import resolve

SKIPPED_FILE = "skipped.jsonl"
"""Name of the list of skipped rows in the new folder."""


@dataclass(frozen=True)
class Imported:
    """The result of `import_data`."""

    videos: int
    pairs: int
    skipped: tuple[BadRow, ...]

    @property
    def reasons(self) -> Counter[str]:
        """Number of skipped rows by reason."""
        return Counter(row.reason for row in self.skipped)


def import_data(importer: str, source: Path, destination: Path) -> Imported:
    """Imports `source` into the new folder `destination`. `importer` is the name of the source's layout.

    The result can be validated, or merged into `data/` by `reelnest data add`. Rows that cannot be used are skipped, returned, and listed
    in `skipped.jsonl` with their file and row.

    Raises ConfigError for an unknown importer. Raises DataError if the source is missing or has another layout, if no row can be used, or
    if a file cannot be copied. On an error, nothing is written.
    """
    read = IMPORTERS[importer]
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder.")
    if destination.exists():
        raise DataError(f"{destination} already exists. Name a new folder; `reelnest data add` merges it into data/ afterwards.")
    with atomic_folder(destination) as folder:
        writing = _Writing(source, folder)
        waiting: list[PairRow] = []
        for row in read(source):
            if isinstance(row, PairRow):
                waiting.append(row)  # its videos may follow later
            else:
                writing.take(row)
        for row in waiting:
            writing.take(row)
        return writing.finish()


class _Writing:
    """The folder that is being written."""

    def __init__(self, source: Path, folder: Path) -> None:
        self._source, self._folder = source, folder
        self._lines: dict[str, list[str]] = {VIDEOS_FILE: [], PAIRS_FILE: []}
        self._ids: dict[str, Origin] = {}
        self._bad_ids: set[str] = set()
        self._copied: dict[Path, Path] = {}
        self._skipped: list[BadRow] = []

    def take(self, row: Row) -> None:
        """Adds a row, or records why it is skipped."""
        if isinstance(row, BadRow):
            self._skip(row)
            return
        try:
            if isinstance(row, VideoRow):
                self._video(row)
            else:
                self._pair(row)
        except (RecordError, VideoError) as error:
            video_id = row.record.get("video_id")
            detail = str(error).replace(f"{self._folder.name}/", "the new folder")
            self._skip(BadRow(row.origin, error.reason, detail, video_id if isinstance(video_id, str) else None))

    def finish(self) -> Imported:
        """Writes the record files. Raises DataError if they would be empty."""
        if not any(self._lines.values()):
            first = self._skipped[0] if self._skipped else None
            example = f" The first: {first.origin.file}, row {first.origin.row}: {first.detail}." if first else ""
            raise DataError(f"{self._source}: no row can be used, so nothing was imported.{example}")
        for name, lines in self._lines.items():
            write_lines(self._folder / name, lines)
        if self._skipped:
            write_lines(self._folder / SKIPPED_FILE, map(_skipped_line, self._skipped))
        return Imported(len(self._lines[VIDEOS_FILE]), len(self._lines[PAIRS_FILE]), tuple(self._skipped))

    def _video(self, row: VideoRow) -> None:
        video = parse_video(dict(row.record), self._folder, row.origin.row)
        if (first := self._ids.get(video.video_id)) is not None:
            where = f"{first.file}, row {first.row}"
            raise RecordError(
                "duplicate_id", f"video_id {show(video.video_id)} is already in {where}, which is used; give each a unique id"
            )
        for name, file in row.files.items():
            self._copy(name, file)
        video_files(video, self._folder)
        self._ids[video.video_id] = row.origin
        self._write(VIDEOS_FILE, row.record)

    def _pair(self, row: PairRow) -> None:
        record = dict(row.record)
        pair = parse_pair(record, self._ids.keys() | self._bad_ids, row.origin.row)
        for side in (pair.query, pair.target, *pair.negatives):
            if side.kind == "video" and side.value not in self._ids:
                raise RecordError("bad_video", f"names video {show(side.value)}, which was skipped; repair the video, or remove it here")
        self._write(PAIRS_FILE, explicit_record(record, pair))

    def _skip(self, row: BadRow) -> None:
        self._skipped.append(row)
        if row.video_id is not None:
            self._bad_ids.add(row.video_id)

    def _copy(self, name: str, file: Path) -> None:
        target = resolve(name, self._folder)
        if self._copied.get(target) == file:
            return  # several videos may share a file
        if target in self._copied:
            raise RecordError("path_taken", f"the path {show(name)} is already used by {self._copied[target]}; give each its own path")
        if not file.is_file():
            raise VideoError("missing", f"there is no file {file}; correct the path or add the file")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(file, target)
        except OSError as error:
            raise DataError(f"{file}: cannot be copied to {name}: {error.strerror or error}. Nothing was imported.") from error
        self._copied[target] = file

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        self._lines[name].append(json.dumps(dict(record), ensure_ascii=False))


def _skipped_line(row: BadRow) -> str:
    return json.dumps({"file": row.origin.file, "row": row.origin.row, "reason": row.reason, "detail": row.detail}, ensure_ascii=False)
