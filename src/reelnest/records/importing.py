"""The code that all importers share: checks every row and writes a folder in this project's format atomically.

Rows are written as they come. In memory are the ids of the videos and where they came from, never the pairs.
"""

import errno
import json
import os
from collections import ChainMap, Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import numpy as np

from reelnest.atomic_files import atomic_folder
from reelnest.errors import DataError, VideoError
from reelnest.records.files.safe_paths import check_regular_file, is_file, resolve
from reelnest.records.formats import PAIRS_FILE, VIDEOS_FILE, parse_pair, parse_video, video_files
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, PairColumns, PairRow, Row, VideoRow
from reelnest.records.json_lines import RecordError, show, show_kind
from reelnest.records.merging import copy_file, explicit_record
from reelnest.records.tables.pair_lines import joined_bytes, plain_lines

SKIPPED_FILE = "skipped.jsonl"
"""Name of the list of skipped rows in the new folder."""
MOST_SKIPPED_IN_MEMORY = 1000
SPOOL_BYTES = 2**24
UNUSABLE_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
"""Errors of one name: it is too long or has a character that the disk refuses, or a file has the name of a folder."""


@dataclass(frozen=True)
class Imported:
    """The result of `import_data`."""

    videos: int
    pairs: int
    skipped: tuple[BadRow, ...]
    """The first MOST_SKIPPED_IN_MEMORY; `skipped.jsonl` has all."""
    reasons: Counter[str]
    """Number of all skipped rows by reason."""


def import_data(importer: str, source: Path, destination: Path) -> Imported:
    """Imports `source` into the new folder `destination`. `importer` is the name of the source's layout.

    The result can be validated, or merged into `data/` by `reelnest data add`. Rows that cannot be used are skipped, and listed in
    `skipped.jsonl` with their file and row.

    Raises ConfigError for an unknown importer. Raises DataError if the source is missing or has another layout, if no row can be used, or
    if a file cannot be copied. On an error, nothing is written.
    """
    read = IMPORTERS[importer]
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder.")
    return import_rows(read(source), source, destination)


def import_rows(rows: Iterable[Row], source: Path, destination: Path) -> Imported:
    """Imports rows that an importer read from `source`; see `import_data`."""
    if destination.exists():
        raise DataError(f"{destination} already exists. Name a new folder; `reelnest data add` merges it into data/ afterwards.")
    with (
        atomic_folder(destination) as folder,
        ExitStack() as open_files,
        SpooledTemporaryFile(SPOOL_BYTES, "w+", encoding="utf-8") as spool,
    ):
        writing = _Writing(folder, open_files)
        waiting = _WaitingPairs(spool)
        try:
            for row in rows:
                late = waiting.add(row) if isinstance(row, PairRow) else row  # its videos may follow later
                if late is not None:
                    writing.take(late)
        except DataError as error:  # the rows that were left out may be why
            raise DataError(f"{error}{_first_skipped(writing.imported())}") from error
        for row in waiting:
            writing.take(row)
        imported = writing.imported()
        if not imported.videos and not imported.pairs:
            raise DataError(f"{source}: no row can be used, so nothing was imported.{_first_skipped(imported)}")
        return imported


def _first_skipped(imported: Imported) -> str:
    """Returns a sentence with the number of skipped rows and the first of them; empty if there are none."""
    if not imported.skipped:
        return ""
    first = imported.skipped[0]
    return f" {imported.reasons.total():,} rows were left out. The first: {first.origin.file}, row {first.origin.row}: {first.detail}."


class _WaitingPairs:
    """Pairs on the disk, if they are many."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def add(self, row: PairRow) -> BadRow | None:
        """Keeps a pair, or returns why it is none."""
        try:
            self._file.write(json.dumps([row.origin.file, row.origin.row, dict(row.record)], default=_refuse) + "\n")
        except RecordError as error:
            return BadRow(row.origin, error.reason, str(error))
        except RecursionError:
            return BadRow(row.origin, "wrong_type", "found a value that is nested very deep; expected texts and numbers")
        return None

    def __iter__(self) -> Iterator[PairRow]:
        self._file.seek(0)
        for line in self._file:
            file, number, record = json.loads(line)
            yield PairRow(Origin(file, number), record)


def _refuse(value: Any) -> Any:
    raise RecordError("wrong_type", f"found a value {show_kind(value)}; expected texts and numbers: convert the column")


class _Writing:
    """The folder that is being written."""

    def __init__(self, folder: Path, open_files: ExitStack) -> None:
        self._folder, self._open_files = folder, open_files
        self._files = {name: open_files.enter_context((folder / name).open("xb")) for name in (VIDEOS_FILE, PAIRS_FILE)}
        self._ids: dict[str, Origin] = {}
        self._bad_ids: dict[str, Origin] = {}
        self._known = ChainMap(self._ids, self._bad_ids)
        self._copied: dict[str, str] = {}
        self._pairs_written = 0
        self._skipped: list[BadRow] = []
        self._reasons: Counter[str] = Counter()

    def imported(self) -> Imported:
        """Returns the counts so far."""
        return Imported(len(self._ids), self._pairs_written, tuple(self._skipped), self._reasons)

    def take(self, row: Row) -> None:
        """Adds a row, or records why it is skipped."""
        if isinstance(row, BadRow):
            self._skip(row)
        elif isinstance(row, PairColumns):
            self._pairs(row)
        else:
            try:
                if isinstance(row, VideoRow):
                    self._video(row)
                else:
                    self._files[PAIRS_FILE].write(self._pair(row))
                    self._pairs_written += 1
            except (RecordError, VideoError) as error:
                video_id = row.record.get("video_id")
                detail = str(error).replace(f"{self._folder.name}/", "the new folder")
                self._skip(BadRow(row.origin, error.reason, detail, video_id if isinstance(video_id, str) else None))

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
        self._files[VIDEOS_FILE].write(_line(row.record))

    def _pair(self, row: PairRow) -> bytes:
        """Returns the pair's line. Raises RecordError."""
        record = dict(row.record)
        pair = parse_pair(record, self._known, row.origin.row)
        for side in (pair.query, pair.target, *pair.negatives):
            if side.kind == "video" and side.source not in self._ids:
                raise RecordError("bad_video", f"names video {show(side.source)}, which was skipped; repair the video, or remove it here")
        return _line(explicit_record(record, pair))

    def _pairs(self, pairs: PairColumns) -> None:
        import pyarrow as pa
        from pyarrow import compute

        lines = plain_lines(pairs, self._ids)
        unclear = np.flatnonzero(lines.is_null().to_numpy(zero_copy_only=False))
        checked = [self._checked_line(pairs.row(int(at))) for at in unclear]
        if checked:
            lines = compute.replace_with_mask(lines, lines.is_null(), pa.array(checked, pa.string()))
        self._files[PAIRS_FILE].write(joined_bytes(lines))
        self._pairs_written += len(lines) - checked.count("")

    def _checked_line(self, row: PairRow) -> str:
        try:
            return self._pair(row).decode("utf-8")
        except RecordError as error:
            self._skip(BadRow(row.origin, error.reason, str(error)))
            return ""

    def _skip(self, row: BadRow) -> None:
        if SKIPPED_FILE not in self._files:
            self._files[SKIPPED_FILE] = self._open_files.enter_context((self._folder / SKIPPED_FILE).open("xb"))
        file, detail = (text.encode("utf-8", "backslashreplace").decode("utf-8") for text in (row.origin.file, row.detail))
        row = replace(row, origin=Origin(file, row.origin.row), detail=detail)
        self._files[SKIPPED_FILE].write(_line({"file": row.origin.file, "row": row.origin.row, "reason": row.reason, "detail": row.detail}))
        self._reasons[row.reason] += 1
        if len(self._skipped) < MOST_SKIPPED_IN_MEMORY:
            self._skipped.append(row)
        if row.video_id is not None:
            self._bad_ids[row.video_id] = row.origin

    def _copy(self, name: str, file: Path) -> None:
        target = resolve(name, self._folder)
        if self._copied.get(str(target)) == str(file):
            return  # several videos may share a file
        if str(target) in self._copied:
            taken = self._copied[str(target)]
            raise RecordError("path_taken", f"the path {show(name)} is already used by {taken}; give each its own path")
        if not is_file(file):
            check_regular_file(file, str(file))  # its error has more advice
            raise VideoError("missing", f"there is no file {file}; correct the path or add the file")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(file, target)
        except OSError as error:
            if error.errno in UNUSABLE_NAME:
                problem = f"no file can have the name {show(name)} in the new folder ({error.strerror})"
                raise RecordError("unusable_name", f"{problem}; give the file another name") from None
            if isinstance(error, PermissionError) and not os.access(file, os.R_OK):
                raise VideoError("unreadable", f"{file}: no permission to read it; change the file's permissions") from None
            raise DataError(f"{file}: cannot be copied to {name}: {error.strerror or error}. Nothing was imported.") from error
        self._copied[str(target)] = str(file)


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(record), ensure_ascii=False).encode("utf-8") + b"\n"
