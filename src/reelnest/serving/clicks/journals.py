"""Journals that become Parquet files. Any number of servers of one machine may share a folder.

A journal has the searches of one period and the clicks on their results, as lines of JSON. Servers append to it under a lock. When the
time for clicks is over, whoever comes first writes the Parquet file and then removes the journal. If it is killed in between, the next one
writes the same file again: its name comes from the journal's first search. A line that a kill cut short, or that another version wrote in
another form, is skipped: it would otherwise keep all later files from being written.
"""

import fcntl
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from reelnest.atomic_files import atomic_write

log = logging.getLogger(__name__)

Kind = Literal["click", "up", "down", "none"]

SUFFIX = ".journal"
TIME_FORMAT = "%Y%m%dT%H%M%SZ"
"""The start of a file's name: when its first search could be."""
LARGEST_BYTES = 2**28
"""A journal takes no more lines beyond this."""
ROWS_AT_ONCE = 2**16

SCHEMA = pa.schema(
    [
        ("query", pa.string()),
        ("item", pa.string()),
        ("position", pa.int16()),
        ("clicked", pa.bool_()),
        ("session", pa.string()),
        ("time", pa.timestamp("ms", tz="UTC")),
        ("thumb", pa.int8()),
        ("index", pa.string()),
        ("model_hash", pa.string()),
    ]
)
"""A row is a result that was shown. `thumb` is 1 or -1, null for none."""


class Search(BaseModel):
    """A search and its results, best first."""

    search: str
    query: str
    session: str
    time: Annotated[float, Field(ge=0, le=1e11)]
    index: str
    model_hash: str
    items: list[str]


class Mark(BaseModel):
    """A click or a thumb on a result."""

    search: str
    rank: int
    kind: Kind


LINE: TypeAdapter[Search | Mark] = TypeAdapter(Search | Mark)


class JournalFullError(OSError):
    """The journal would have more than LARGEST_BYTES. A later try fails too."""


class Journals:
    """The journals and Parquet files of one folder."""

    def __init__(self, folder: Path, period: float, wait: float) -> None:
        """`period` and `wait` in seconds: how long the searches of one journal come, and how long after them clicks do."""
        self._folder, self._period, self._wait = folder, period, wait

    def period_of(self, now: float) -> int:
        """Returns the start of the period at a time, which names its journal."""
        return int(now // self._period * self._period)

    def is_open(self, start: int, now: float) -> bool:
        """Returns whether a period starts at `start`, and clicks on its searches still count."""
        return start == self.period_of(start) and start <= now < self._end_of(start)

    def _end_of(self, start: int) -> float:
        return start + self._period + self._wait

    def append(self, start: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Writes records to the disk: all, or none if there is an error. Raises OSError, JournalFullError among them."""
        path = self._folder / f".{start}{SUFFIX}"
        self._folder.mkdir(parents=True, exist_ok=True)
        # A kill may have cut the last line short, so each write begins with a new one.
        written = b"\n" + b"".join(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for record in records)
        while True:
            with path.open("ab", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not _is_at(file, path):
                    continue  # it was finished while this server waited for the lock
                size = file.seek(0, io.SEEK_END)
                if size + len(written) > LARGEST_BYTES:
                    raise JournalFullError(f"{path.name} is full ({size / 1e6:.0f} MB); set a smaller serve.click_log_minutes")
                try:
                    rest = memoryview(written)
                    while rest:
                        rest = rest[os.write(file.fileno(), rest) :]
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(size)
                    raise
                return

    def finish(self, now: float) -> list[Path]:
        """Writes the Parquet files of all periods that are over. Raises OSError if the disk is full; the journals stay."""
        done = []
        for path in sorted(self._folder.glob(f".*{SUFFIX}")):
            start = path.name.removeprefix(".").removesuffix(SUFFIX)
            if not start.isdecimal() or now < self._end_of(int(start)):
                continue
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue  # another server finished it just now
            with file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if not _is_at(file, path):
                    continue
                written = self._write(path, int(start))
                path.unlink()
            if written is not None:
                done.append(written)
        return done

    def _write(self, journal: Path, start: int) -> Path | None:
        """Writes the Parquet file of a journal and returns its path; None if the journal has no search."""
        first = next((record for record in _records(journal) if isinstance(record, Search)), None)
        if first is None:
            return None
        clicks, thumbs = _marks(journal)
        name = f"{datetime.fromtimestamp(start, UTC).strftime(TIME_FORMAT)}-{first.search.rpartition('-')[2]}.parquet"
        with atomic_write(self._folder / name) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            rows: list[dict[str, Any]] = []
            for record in _records(journal):
                if isinstance(record, Search):
                    rows += _rows(record, clicks, thumbs)
                if len(rows) >= ROWS_AT_ONCE:
                    writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                    rows = []
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
        return self._folder / name


def finished_files(folder: Path, since: float) -> list[Path]:
    """Returns the Parquet files whose period began after a time, in the order of the periods."""
    earliest = datetime.fromtimestamp(max(since, 0), UTC).strftime(TIME_FORMAT)
    return sorted(path for path in folder.glob("*.parquet") if path.name >= earliest)


def _marks(journal: Path) -> tuple[set[tuple[str, int]], dict[tuple[str, int], int]]:
    """Returns what was clicked, by search and rank, and the last thumb of each."""
    clicks: set[tuple[str, int]] = set()
    thumbs: dict[tuple[str, int], int] = {}
    unreadable = 0
    for record in _records(journal):
        unreadable += record is None
        if not isinstance(record, Mark):
            continue
        place = record.search, record.rank
        if record.kind == "click":
            clicks.add(place)
        else:
            thumbs[place] = {"up": 1, "down": -1, "none": 0}[record.kind]
    if unreadable:
        log.warning("%s: lines left out: %d. A kill cut them short, or another version of reelnest wrote them.", journal, unreadable)
    return clicks, thumbs


def _rows(record: Search, clicks: set[tuple[str, int]], thumbs: Mapping[tuple[str, int], int]) -> Iterator[dict[str, Any]]:
    """Yields the rows of a search. A thumb outweighs a click: up is one, down is none."""
    for rank, item in enumerate(record.items, start=1):
        place = record.search, rank
        thumb = thumbs.get(place, 0)
        yield {
            "query": record.query,
            "item": item,
            "position": rank,
            "clicked": thumb > 0 or (thumb == 0 and place in clicks),
            "session": record.session,
            "time": round(record.time * 1000),
            "thumb": thumb or None,
            "index": record.index,
            "model_hash": record.model_hash,
        }


def _records(journal: Path) -> Iterator[Search | Mark | None]:
    """Yields the lines of a journal that are not blank; None for one that is cut short or has another form."""
    with journal.open("rb") as lines:
        for line in filter(bytes.strip, lines):
            try:
                yield LINE.validate_json(line)
            except ValidationError:
                yield None


def _is_at(file: Any, path: Path) -> bool:
    """Returns whether an open file is still the one at the path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
