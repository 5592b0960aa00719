"""What earlier runs learnt of video files, so that a file is read and inspected again only after it has changed.

An SQLite database beside the decoded frames, `work/frames/known.sqlite`, with two tables:

- `files` has the digest of each file's bytes. A file is known by its inode, size and times. One of these changes with the bytes: no
  program can set the time of an inode's last change. Files that changed within the last seconds are not stored, because the next change
  could have the same time.
- `inspections` has the result of each good video, by the digest of its bytes, the decoder setting, and the code and libraries that decode.
  Bad videos are inspected again each time: the reason may be the machine, such as its memory.

Deleting the database costs only time. So does a damaged one, which is replaced.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from reelnest.code_closure import DECODING, code_digest
from reelnest.errors import DataError, VideoError
from reelnest.records.files.tar_members import find_member, open_bytes
from reelnest.records.segments import Segment
from reelnest.video.decoder import VideoInfo, available_workers

log = logging.getLogger(__name__)

FILE = "known.sqlite"
LAYOUT = 1
"""A database with another layout version is emptied."""
TABLES = (
    "CREATE TABLE IF NOT EXISTS files (inode TEXT PRIMARY KEY, state TEXT, digest BLOB) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS inspections (video BLOB PRIMARY KEY, info TEXT) WITHOUT ROWID",
)
COUNTS = tuple(f"SELECT count(*) FROM {table}" for table in ("inspections", "files"))  # noqa: S608 - constant names
UNSETTLED_SECONDS = 2.0
"""A file that changed this recently may change again without another time: the clock of some file systems ticks every two seconds."""
WRITE_SECONDS = 1.0
"""Between two writes of new rows. A killed run repeats the work of this time."""
LOCK_SECONDS = 60.0
BATCH = 500
"""Rows that one query asks for."""
LOOK_AHEAD = 64
"""Files per thread that are hashed ahead of the first unfinished one."""
SPARE_ROWS = 10_000
"""Rows of other data that each table may have, besides as many as this run uses."""

J = TypeVar("J")


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a video."""

    digest: str
    """Hexadecimal. Equal for equal bytes, divided into the same files."""
    bytes: int
    """Size of its file, or of all its frame files."""

    def cut(self, segment: Segment | None) -> "Content":
        """Returns the content of a segment, which has a digest of its own."""
        if segment is None:
            return self
        return replace(self, digest=hashlib.blake2b(f"{self.digest}{segment.fragment}".encode(), digest_size=20).hexdigest())


class KnownVideos:
    """The database in `folder`. Use it in one thread, in a `with` statement."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._database = _open(self._path)
        self._files: dict[str, tuple[str, bytes]] = {}
        self._inspections: dict[bytes, str] = {}
        """New rows that are not written yet."""
        self._written = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        self._database.close()

    def contents(
        self, videos: Iterable[J], files_of: Callable[[J], Sequence[Path]], check: Callable[[Sequence[Path]], None] = lambda _: None
    ) -> Iterator[tuple[J, Content | VideoError]]:
        """Yields each video, in their order, with the content of its files. Reads files that are not known in parallel.

        `files_of` returns a video's files, and `check` is called with those that are read. A VideoError that they raise is the result of
        that video. Videos in a row with the same files, such as segments, are read once.
        """
        workers = available_workers()
        waiting: deque[tuple[J, Content | VideoError | Future[_Read | VideoError]]] = deque()
        last: tuple[Sequence[Path], Future[_Read | VideoError]] | None = None
        with ThreadPoolExecutor(workers, thread_name_prefix="hashing") as pool:
            for video, outcome in self._known(videos, files_of):
                if isinstance(outcome, (Content, VideoError)):  # a union takes three times as long
                    waiting.append((video, outcome))
                else:
                    last = last if last is not None and last[0] == outcome else (outcome, pool.submit(_read, outcome, check))
                    waiting.append((video, last[1]))
                if len(waiting) > workers * LOOK_AHEAD:
                    yield self._result(*waiting.popleft())
            while waiting:
                yield self._result(*waiting.popleft())

    def inspections(self, contents: Sequence[Content], decoder: str) -> list[VideoInfo | None]:
        """Returns what inspecting each video returned under this value of `preprocess.decoder`; None for those that are not known."""
        keys = [_inspection_key(content, decoder) for content in contents]
        known = dict(self._rows("SELECT video, info FROM inspections WHERE video IN", keys))
        return [None if (info := known.get(key)) is None else VideoInfo(**json.loads(info)) for key in keys]

    def learn(self, content: Content, decoder: str, info: VideoInfo) -> None:
        """Stores the result of inspecting a good video."""
        self._inspections[_inspection_key(content, decoder)] = json.dumps(asdict(info))
        self._write_if_due()

    def forget_others(self, contents: Sequence[Content], decoder: str) -> None:
        """Removes the inspections of other videos if there are more of them than of these, and the files if there are many more."""
        self._write()
        used = len({content.digest for content in contents})
        with contextlib.suppress(sqlite3.OperationalError), self._database as database:
            inspections, files = (database.execute(query).fetchone()[0] for query in COUNTS)
            if inspections > 2 * used + SPARE_ROWS:
                database.execute("CREATE TEMPORARY TABLE used (video BLOB PRIMARY KEY) WITHOUT ROWID")
                keys = ((_inspection_key(content, decoder),) for content in contents)
                database.executemany("INSERT OR IGNORE INTO used VALUES (?)", keys)
                database.execute("DELETE FROM inspections WHERE video NOT IN (SELECT video FROM used)")
                database.execute("DROP TABLE used")
            if files > 4 * used + SPARE_ROWS:  # there may be several data folders with the same bytes
                database.execute("DELETE FROM files")

    def _known(
        self, videos: Iterable[J], files_of: Callable[[J], Sequence[Path]]
    ) -> Iterator[tuple[J, Content | VideoError | Sequence[Path]]]:
        """Yields each video with its content by the states of its files, or with the files themselves if one is not known."""
        videos = iter(videos)
        while batch := list(islice(videos, BATCH)):
            outcomes = [_states(video, files_of) for video in batch]
            inodes = [state.inode for outcome in outcomes if not isinstance(outcome, VideoError) for state in outcome[1]]
            known = {inode: (state, digest) for inode, state, digest in self._rows("SELECT * FROM files WHERE inode IN", inodes)}
            known |= {inode: self._files[inode] for inode in inodes if inode in self._files}
            for video, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, VideoError):
                    yield video, outcome
                    continue
                files, states = outcome
                rows = [known.get(state.inode) for state in states]
                digests = [row[1] for row, state in zip(rows, states, strict=True) if row is not None and row[0] == state.text]
                is_known = bool(states) and len(digests) == len(states)
                yield video, _content(digests, sum(state.bytes for state in states)) if is_known else files

    def _result(self, video: J, outcome: "Content | VideoError | Future[_Read | VideoError]") -> tuple[J, Content | VideoError]:
        result = outcome.result() if isinstance(outcome, Future) else outcome
        if not isinstance(result, _Read):
            return video, result
        self._files |= result.settled
        self._write_if_due()
        return video, result.content

    def _rows(self, query: str, keys: Sequence[str | bytes]) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        try:
            for start in range(0, len(keys), BATCH):
                batch = keys[start : start + BATCH]
                rows += self._database.execute(f"{query} ({','.join('?' * len(batch))})", batch)
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self._path}: cannot be read ({error}). Delete it; it only saves time.") from error
        return rows

    def _write_if_due(self) -> None:
        if time.monotonic() - self._written > WRITE_SECONDS:
            self._write()

    def _write(self) -> None:
        files = ((inode, *row) for inode, row in self._files.items())
        try:
            with self._database as database:  # one short transaction, because another process that writes waits for its end
                database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", files)
                database.executemany("INSERT OR REPLACE INTO inspections VALUES (?, ?)", self._inspections.items())
        except sqlite3.OperationalError as error:
            log.warning("%s cannot be written, so the next run inspects some videos again (%s)", self._path, error)
        self._files.clear()
        self._inspections.clear()
        self._written = time.monotonic()


@dataclass(frozen=True)
class _Read:
    """The content of a video, and the states of its files that have been read and are settled."""

    content: Content
    settled: dict[str, tuple[str, bytes]]


class _State(NamedTuple):
    """A file's identity, its size, what changes with its bytes, and the time of its last change."""

    inode: str
    bytes: int
    text: str
    changed: float


def _states(video: J, files_of: Callable[[J], Sequence[Path]]) -> tuple[Sequence[Path], list[_State]] | VideoError:
    """Returns the files of a video and their states; no states if one cannot be found."""
    try:
        files = files_of(video)
    except VideoError as error:
        return error
    try:
        return files, [_state_of(file) for file in files]
    except (OSError, VideoError):
        return files, []


def _read(files: Sequence[Path], check: Callable[[Sequence[Path]], None]) -> _Read | VideoError:
    digests: list[bytes] = []
    size = 0
    settled: dict[str, tuple[str, bytes]] = {}
    try:
        check(files)
        for file in files:
            before = _state_of(file)
            started = time.time()
            digests.append(_digest(file))
            after = _state_of(file)
            size += after.bytes
            if before[:3] == after[:3] and before.changed < started - UNSETTLED_SECONDS:
                settled[before.inode] = (before.text, digests[-1])
        return _Read(_content(digests, size), settled)
    except VideoError as error:
        return error
    except OSError as error:
        return VideoError("missing", f"{files[0].name}: cannot be read ({error.strerror})")


def _state_of(file: Path) -> _State:
    try:
        return _state(os.stat(file))  # noqa: PTH116 - faster than Path.stat
    except NotADirectoryError:
        member = find_member(file)
        if member is None:
            raise
    tar = _state(member.tar.stat())
    return _State(f"{tar.inode} {member.offset}", member.size, f"{member.size} in {tar.text}", tar.changed)


def _state(status: os.stat_result) -> _State:
    text = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return _State(f"{status.st_dev} {status.st_ino}", status.st_size, text, max(status.st_mtime, status.st_ctime))


def _digest(file: Path) -> bytes:
    digest = hashlib.blake2b()
    with open_bytes(file) as blocks:
        for block in blocks:
            digest.update(block)
    return digest.digest()


def _content(digests: Sequence[bytes], size: int) -> Content:
    # A digest of the files' digests, so that the same bytes divided into other files give another digest.
    return Content(hashlib.blake2b(str(len(digests)).encode() + b"".join(digests), digest_size=20).hexdigest(), size)


def _inspection_key(content: Content, decoder: str) -> bytes:
    return hashlib.blake2b(f"{content.digest} {_how(decoder)}".encode(), digest_size=20).digest()


@functools.cache
def _how(decoder: str) -> str:
    return json.dumps({"decoder": decoder, "code": code_digest(DECODING), **decoder_versions()}, sort_keys=True)


@functools.cache
def decoder_versions() -> dict[str, str]:
    """Returns the versions of the libraries that decode. Pixels may differ by rounding between versions."""
    return {name: version(name) for name in ("decord2", "av", "pillow")}


def _open(file: Path) -> sqlite3.Connection:
    """Opens the database, or one in memory where none can be written. Replaces a damaged one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            return _opened(file)
        except sqlite3.OperationalError:  # locked, or not writable
            raise
        except sqlite3.DatabaseError as error:
            log.warning("%s is damaged and is replaced; all videos are inspected again (%s)", file, error)
            file.unlink(missing_ok=True)
            return _opened(file)
    except sqlite3.OperationalError as error:
        log.warning("%s cannot be used, so all videos are inspected again (%s)", file, error)
        return _opened(":memory:")


def _opened(name: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(name, timeout=LOCK_SECONDS)
    try:
        with database:
            database.execute("BEGIN IMMEDIATE")  # of two processes that open a new database, one waits
            if database.execute("PRAGMA user_version").fetchone()[0] != LAYOUT:
                for table in ("files", "inspections"):
                    database.execute(f"DROP TABLE IF EXISTS {table}")
            for table in TABLES:
                database.execute(table)
            database.execute(f"PRAGMA user_version = {LAYOUT}")
        return database
    except sqlite3.Error:
        database.close()
        raise
