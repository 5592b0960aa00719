"""Merges records from other folders into the data, without changing existing records unless requested.

Two videos with one id are equal if their texts, tags and file bytes are equal. Two pairs are the same pair if query and target are equal.
Records that exist already are skipped, so adding a source twice is safe. Records that differ are conflicts. If there are conflicts or
unreadable lines, the error lists them with file and line, and nothing is written.
"""

import filecmp
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reelnest.atomic_files import atomic_write
from reelnest.errors import DataError, VideoError
from reelnest.messages import some_of
from reelnest.records.behaviour_tests import BEHAVIOUR_FILE, parse_test
from reelnest.records.files.tar_members import same_bytes, stored_name, tar_of
from reelnest.records.formats import (
    PAIRS_FILE,
    VIDEOS_FILE,
    Pair,
    Side,
    Video,
    file_names,
    known_ids,
    parse_pair,
    parse_video,
    read_pairs,
    read_records,
    read_videos,
    video_files,
)
from reelnest.records.json_lines import RecordError, read_lines, show

FILES = (VIDEOS_FILE, PAIRS_FILE, BEHAVIOUR_FILE)
SHOWN = 10
"""Maximum number of problems that the error lists; it counts all."""


@dataclass(frozen=True)
class _Known:
    """A record of the merged data, its source and its place."""

    value: Any
    folder: Path
    origin: str
    added: bool
    at: int
    """Its line in the data's file, or its index in the added lines."""


class _Lines:
    """A file of the data: its existing lines, and the added ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.own = dict(read_lines(path)) if path.is_file() else {}
        self.added: list[bytes] = []
        self.changed = False

    def put(self, record: Any, over: _Known | None = None) -> int:
        """Adds a record, or replaces the record `over`. Returns its place."""
        line = json.dumps(record, ensure_ascii=False).encode()
        self.changed = True
        if over is None:
            self.added.append(line)
            return len(self.added) - 1
        if over.added:
            self.added[over.at] = line
        else:
            self.own[over.at] = line
        return over.at

    def write(self, path: Path) -> None:
        """Writes the file, unless it exists and is unchanged."""
        if self.changed or not path.exists():
            with atomic_write(path) as file:
                for line in (*self.own.values(), *self.added):
                    file.write(line.rstrip(b"\r\n") + b"\n")


def merge(sources: Sequence[Path], data: Path, into: Path, *, replacing: bool = False) -> bool:
    """Writes `data` merged with `sources` into the empty folder `into`. `data` is not changed, and need not exist.

    Returns whether the merged records differ from those of `data`.

    Args:
        sources: Folders in the data's format (either file may be missing), or files of JSON lines, in which a record with a `video_id` is
            a video and any other a pair. Paths in a file are relative to its folder.
        data: The existing data.
        into: Files of `data` are hard-linked. Files of the sources are copied (sharing blocks if the file system can), so that editing a
            source later does not change the data.
        replacing: Replace records of `data` that a source's record contradicts.

    Raises DataError with all conflicts and bad lines, and for an invalid source.
    """
    return _Merge(data, replacing).run(sources, into)


class _Merge:
    def __init__(self, data: Path, replacing: bool) -> None:
        self.data, self.replacing = data, replacing
        self.faults: list[str] = []
        self.lines = {name: _Lines(data / name) for name in FILES}
        present, bad = read_videos(data) if (data / VIDEOS_FILE).is_file() else ([], [])
        self.present_ids = known_ids(present, bad)
        self.ids = set(self.present_ids)
        self.videos = {video.video_id: _Known(video, data, "", added=False, at=video.line) for video in present}
        self.files: dict[str, Path] = {}
        for folder, _, names in os.walk(data):
            for name in names:
                path = Path(folder, name)
                self.files[path.relative_to(data).as_posix()] = path
        self.users: dict[str, set[str]] = {}
        for video in present:
            for name in file_names(video):
                self.users.setdefault(stored_name(name, data), set()).add(video.video_id)

    def run(self, sources: Sequence[Path], into: Path) -> bool:
        files = [(folder, name) for source in sources for folder, name in record_files(source)]
        records = [(folder, name, *record) for folder, name in files for record in self._read(folder, name)]
        for folder, name, line, record in records:
            if "video_id" in record and name != BEHAVIOUR_FILE:
                self._take(folder, name, line, record, self._video)
        self._keep_texts()
        pairs = read_pairs(self.data, self.present_ids)[0] if (self.data / PAIRS_FILE).is_file() else []
        self.pairs: dict[tuple[Side, Side], _Known] = {}
        for pair in pairs:
            self.pairs.setdefault((pair.query, pair.target), _Known(pair, self.data, "", added=False, at=pair.line))
        for folder, name, line, record in records:
            if "video_id" not in record and name != BEHAVIOUR_FILE:
                self._take(folder, name, line, record, self._pair)
        present: list[dict[str, Any]] = []
        if any(name == BEHAVIOUR_FILE for _, name, _, _ in records) and self.lines[BEHAVIOUR_FILE].own:
            read_records(self.data, BEHAVIOUR_FILE, lambda record, _: present.append(record))
        for folder, name, line, record in records:
            if name == BEHAVIOUR_FILE and record not in present:
                self._take(folder, name, line, record, self._behaviour)
                present.append(record)
        if self.faults:
            listed = some_of(self.faults, SHOWN, separator="\n  ")
            raise DataError(f"Nothing was added: {len(self.faults)} records have problems.\n  {listed}")
        self._write(into)
        return any(lines.changed for lines in self.lines.values())

    def _read(self, folder: Path, name: str) -> list[tuple[int, dict[str, Any]]]:
        records: list[tuple[int, dict[str, Any]]] = []
        for bad in read_records(folder, name, lambda record, line: records.append((line, record))):
            self.faults.append(f"{folder / name}:{bad.line}: {bad.detail}")
        return records

    def _take(self, folder: Path, name: str, line: int, record: dict[str, Any], take: Any) -> None:
        origin = f"{folder / name}:{line}"
        try:
            take(record, folder, line, origin)
        except (RecordError, VideoError) as error:
            self.faults.append(f"{origin}: {error}")

    def _video(self, record: dict[str, Any], folder: Path, line: int, origin: str) -> None:
        video = parse_video(record, folder, line)
        files = video_files(video, folder)
        known = self.videos.get(video.video_id)
        if known is None and video.video_id in self.ids:
            raise RecordError("conflict", f"video {show(video.video_id)} is on a bad line of data/{VIDEOS_FILE}; repair that first")
        if known is not None:
            what = _difference(video, files, known)
            if what is None:
                return
            if known.added or not self.replacing:
                advice = "give one of them another id" if known.added else "give it another id, or add with --replace"
                raise RecordError("conflict", f"video {show(video.video_id)} has {what} than {self._where(known, VIDEOS_FILE)}; {advice}")
            for name in file_names(known.value):
                self.users[stored_name(name, known.folder)].discard(video.video_id)
        for name, file in zip(file_names(video), files, strict=True):
            self._claim(stored_name(name, folder), tar_of(file) or file, video.video_id)
        at = self.lines[VIDEOS_FILE].put(record, known)
        added = known is None
        self.videos[video.video_id] = _Known(video, folder, origin, added=added, at=at)
        self.ids.add(video.video_id)

    def _claim(self, name: str, file: Path, video_id: str) -> None:
        existing = self.files.get(name)
        if any(step.startswith((".git", ".dvc")) for step in name.split("/")):
            raise RecordError("unsafe_path", f"the file {show(name)} has a name that git or DVC reads; rename it")
        if name in FILES:
            raise RecordError("conflict", f"the file {show(name)} has the name of a file of records; rename it")
        if existing != file and (existing is None or not filecmp.cmp(existing, file, shallow=False)):
            # A file that only a replaced video used may be overwritten. A file that no record names may not.
            if existing is not None and self.users.get(name, {video_id}):
                raise RecordError("conflict", f"the file {show(name)} has other bytes than the existing file of that name; rename it")
            self.files[name] = file
        self.users.setdefault(name, set()).add(video_id)

    def _pair(self, record: dict[str, Any], folder: Path, line: int, origin: str) -> None:
        pair = parse_pair(record, self.ids, line)
        known = self.pairs.get((pair.query, pair.target))
        if known is not None:
            if _same_pair(pair, known.value):
                return
            if known.added or not self.replacing:
                advice = "keep one of them" if known.added else "remove it, or add with --replace"
                problem = f"query and target are those of {self._where(known, PAIRS_FILE)}, with another relevance, split or negatives"
                raise RecordError("conflict", f"{problem}; {advice}")
        at = self.lines[PAIRS_FILE].put(explicit_record(record, pair), known)
        self.pairs[pair.query, pair.target] = _Known(pair, folder, origin, added=known is None, at=at)

    def _keep_texts(self) -> None:
        """Marks bare strings of the data as texts if they equal the id of a new video."""
        lines = self.lines[PAIRS_FILE]
        new_ids = self.ids - self.present_ids

        def keep(record: dict[str, Any], line: int) -> None:
            bare = [record.get("query"), record.get("target"), *_listed(record.get("negatives"))]
            if any(isinstance(side, str) and side in new_ids for side in bare):
                pair = parse_pair(record, self.present_ids, line)
                lines.put(explicit_record(record, pair), _Known(pair, self.data, "", added=False, at=line))

        if new_ids and lines.own:
            read_records(self.data, PAIRS_FILE, keep)

    def _behaviour(self, record: dict[str, Any], folder: Path, line: int, origin: str) -> None:  # noqa: ARG002 - as the other kinds
        parse_test(record, line)
        self.lines[BEHAVIOUR_FILE].put(record)

    def _where(self, known: _Known, name: str) -> str:
        return known.origin or f"{self.data / name}:{known.at}"

    def _write(self, into: Path) -> None:
        for name, source in self.files.items():
            if name in self.users and not self.users[name]:
                continue  # only a replaced video used it
            path = into / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _place(source, path, ours=source.is_relative_to(self.data))
            except OSError as error:
                raise DataError(f"{source}: cannot be copied to {name}: {error.strerror or error}. Nothing was added.") from error
        for name, lines in self.lines.items():
            if lines.changed or name != BEHAVIOUR_FILE:
                lines.write(into / name)


def record_files(source: Path) -> list[tuple[Path, str]]:
    """Returns the record files of a source, as (folder, name)."""
    if source.is_dir():
        files = [(source, name) for name in FILES if (source / name).is_file()]
        if files:
            return files
    elif source.is_file() and source.suffix == ".jsonl":
        return [(source.parent, source.name)]
    raise DataError(f"{source}: expected a folder with {VIDEOS_FILE} or {PAIRS_FILE} (docs/data.md), or a file of JSON lines (.jsonl).")


def _difference(video: Video, files: Sequence[Path], known: _Known) -> str | None:
    """Returns how a video differs from the known one of the same id; None if they are equal."""
    existing: Video = known.value
    if (video.fields, video.tags) != (existing.fields, existing.tags):
        return "other texts or tags"
    if video.segment != existing.segment:
        return "other times"
    try:
        present = video_files(existing, known.folder)
    except VideoError:
        return "other bytes (the existing file is missing)"
    same = len(present) == len(files) and all(same_bytes(old, new) for old, new in zip(present, files, strict=True))
    return None if same else "other bytes"


def _same_pair(first: Pair, second: Pair) -> bool:
    negatives = frozenset(first.negatives) == frozenset(second.negatives)
    return negatives and replace(first, line=0, negatives=()) == replace(second, line=0, negatives=())


def explicit_record(record: Mapping[str, Any], pair: Pair) -> dict[str, Any]:
    """Returns the pair's record with each side marked as a text or a video, so that videos added later do not change it."""
    sides = {"query": pair.query.record, "target": pair.target.record}
    negatives = {"negatives": [side.record for side in pair.negatives]} if pair.negatives else {}
    return {**record, **sides, **negatives}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _place(source: Path, path: Path, *, ours: bool) -> None:
    if not ours:
        copy_file(source, path)
        return
    try:
        os.link(source, path, follow_symlinks=False)
    except OSError:  # the file system has no hard links, or this file has too many
        shutil.copy2(source, path, follow_symlinks=False)


def copy_file(source: Path, path: Path) -> None:
    """Copies a file's bytes to a path that must not exist."""
    with source.open("rb") as read, path.open("xb") as written:
        try:
            # Shares blocks if the file system can; otherwise the kernel copies.
            while os.copy_file_range(read.fileno(), written.fileno(), 2**30):
                pass
        except (OSError, AttributeError):
            read.seek(0)
            written.seek(0)
            written.truncate()
            shutil.copyfileobj(read, written, 2**20)
