"""A click log in memory: 50 bytes a row, and each distinct query and item once."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reelnest.errors import DataError
from reelnest.records.importers.importer import BadRow, Origin
from reelnest.records.json_lines import is_blank, is_encodable
from reelnest.records.splits import normalised
from reelnest.records.tables.batches import ColumnBatch, PlainRow, read_batches
from reelnest.records.tables.column_map import ColumnMap

if TYPE_CHECKING:
    import pyarrow as pa

NUMBERS = ("position", "clicked", "impressions", "clicks", "time")
MOST_POSITIONS = 200
"""A larger position is an error: it is an offset or an id."""
LATEST = 1e11
"""The year 5138 as seconds since 1970."""
PLAIN_ROWS = 4096
"""Rows that are read one by one are converted in groups of this size."""


@dataclass(frozen=True)
class Rows:
    """Columns of the usable rows, in the order of the file."""

    row: NDArray[np.int64]
    query: NDArray[np.int32]
    """Index in `Names.queries`."""
    item: NDArray[np.int32]
    rank: NDArray[np.int16]
    """The position from 1; 0 in all rows of a log without positions."""
    impressions: NDArray[np.int32]
    clicks: NDArray[np.int32]
    user: NDArray[np.uint64]
    """Hash of the user, or of the session if there are no users; 0 for none."""
    session: NDArray[np.uint64]
    """Hash of user and session; 0 for none."""
    time: NDArray[np.float64]
    """Seconds since 1970; NaN in all rows of a log without times."""

    @property
    def pair(self) -> NDArray[np.int64]:
        """A number for each query and item that a row has together."""
        return self.query.astype(np.int64) << 32 | self.item

    def of(self, chosen: NDArray[Any]) -> "Rows":
        """Returns the rows of a mask or of indices."""
        if chosen.dtype == bool and chosen.all():
            return self
        return Rows(**{column.name: getattr(self, column.name)[chosen] for column in fields(self)})

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class Names:
    """What the numbers in the rows mean."""

    queries: list[str]
    """The first spelling of each query. Queries that `normalised` makes equal are one."""
    items: list[str]


def read_click_log(columns: ColumnMap) -> Generator[BadRow, None, tuple[Rows, Names]]:
    """Reads a click log. Yields the rows that cannot be used; returns the others.

    Raises DataError if the table cannot be read or has no usable row, or if its positions count from 0: without the first results, all
    propensities would be wrong.
    """
    queries, items = _Numbering(normalised), _Numbering(str.strip)
    names = columns.columns
    numbers = [names[key] for key in NUMBERS if key in names]
    chunks: list[Rows] = []
    at_zero = at_one = 0
    chosen = list(dict.fromkeys(names.values()))
    for batch in _batches(read_batches(columns.table, chosen, numbers), chosen):
        if isinstance(batch, BadRow):
            yield batch
            continue
        values = {key: batch.columns[name] for key, name in names.items()}
        rows = _rows(values, batch.rows, queries, items)
        faults = _faults(rows, values)
        at_zero += int((rows.rank == 0).sum())
        at_one += int((rows.rank == 1).sum())
        for at in np.flatnonzero(faults != ""):
            reason, _, detail = str(faults[at]).partition(": ")
            yield BadRow(Origin(batch.file, int(batch.rows[at])), reason, detail)
        chunks.append(rows.of(faults == ""))
    if "position" in names and at_zero >= at_one > 0:
        raise DataError(
            f"{columns.table}: the column {names['position']} seems to count from 0, in {at_zero:,} rows; expected 1 for the first result."
            " Add 1 to all positions, or leave out the rows without one."
        )
    if not any(map(len, chunks)):
        raise DataError(f"{columns.table}: no row can be used. Correct the table, or the columns in {columns.source}.")
    return _joined(chunks), Names(queries.names, items.names)


def _joined(chunks: list[Rows]) -> Rows:
    """Returns the rows of all chunks, which is emptied: one column after the other, so that few are in memory twice."""
    columns = {column.name: [getattr(rows, column.name) for rows in chunks] for column in fields(Rows)}
    chunks.clear()
    return Rows(**{name: np.concatenate(columns.pop(name)) for name in list(columns)})


class _Numbering:
    """Numbers distinct texts in the order in which they come."""

    def __init__(self, key: Any) -> None:
        self._key = key
        self._numbers: dict[str, int] = {}
        self.names: list[str] = []

    def of(self, column: "pa.Array") -> NDArray[np.int32]:
        """Returns the number of each text, -1 for none."""
        encoded = _as_texts(column).dictionary_encode()
        numbers = np.array([*map(self._number, encoded.dictionary.to_pylist()), -1], dtype=np.int32)
        return numbers[encoded.indices.fill_null(len(numbers) - 1).to_numpy(zero_copy_only=False)]

    def _number(self, text: str) -> int:
        if "\0" in text or is_blank(text):
            return -1
        number = self._numbers.setdefault(self._key(text), len(self.names))
        if number == len(self.names):
            self.names.append(text.strip())
        return number


def _as_texts(column: "pa.Array") -> "pa.Array":
    """Returns a column as strings, without values for one whose type has no text, such as lists."""
    import pyarrow as pa

    try:
        return column.cast(pa.string())
    except pa.ArrowNotImplementedError:
        return pa.nulls(len(column), pa.string())


def _batches(stream: Iterable[ColumnBatch | PlainRow | BadRow], names: Sequence[str]) -> Iterator[ColumnBatch | BadRow]:
    """Yields the stream with its single rows put together to batches of the columns `names`."""
    waiting: list[PlainRow] = []
    for item in stream:
        if isinstance(item, tuple):
            waiting.append(item)
        if waiting and (not isinstance(item, tuple) or len(waiting) == PLAIN_ROWS):
            yield _put_together(waiting, names)
            waiting = []
        if not isinstance(item, tuple):
            yield item
    if waiting:
        yield _put_together(waiting, names)


def _put_together(rows: list[PlainRow], names: Sequence[str]) -> ColumnBatch:
    import pyarrow as pa

    columns = {name: pa.array([_text(record.get(name)) for _, record in rows], pa.string()) for name in names}
    return ColumnBatch(rows[0][0].file, np.array([origin.row for origin, _ in rows]), columns)


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, bool | int | float) or (isinstance(value, str) and is_encodable(value)) else None


def _rows(values: dict[str, "pa.Array"], row: NDArray[np.int64], queries: _Numbering, items: _Numbering) -> Rows:
    """Returns the columns of a batch. A number that cannot be read is -1, a time NaN."""
    none = np.zeros(len(row), dtype=np.uint64)
    user, session = (_hashes(values[key]) if key in values else none for key in ("user", "session"))
    has_counts = "impressions" in values
    return Rows(
        row,
        queries.of(values["query"]),
        items.of(values["item"]),
        _whole(values["position"], np.int16) if "position" in values else np.zeros(len(row), dtype=np.int16),
        _whole(values["impressions"], np.int32) if has_counts else np.ones(len(row), dtype=np.int32),
        _whole(values["clicks" if has_counts else "clicked"], np.int32),
        user if "user" in values else session,
        session * np.uint64(31) + user,
        _seconds(values["time"]) if "time" in values else np.full(len(row), np.nan),
    )


def _faults(rows: Rows, values: dict[str, "pa.Array"]) -> NDArray[np.str_]:
    """Returns what is wrong with each row: a reason, and what was expected; "" for nothing."""
    has_counts = "impressions" in values
    wrong_clicks = (rows.clicks < 0) | (rows.clicks > rows.impressions)
    checks = [
        (rows.query < 0, "empty_text: the query is empty or no text; expected a search text"),
        (rows.item < 0, "no_path: the item is empty or no text; expected the name of a video file"),
    ]
    if "position" in values:
        wrong = (rows.rank < 1) | (rows.rank > MOST_POSITIONS)
        checks.append((wrong, f"bad_position: the position is no whole number from 1, the first result, to {MOST_POSITIONS}"))
    if has_counts:
        checks.append((rows.impressions < 1, "bad_count: impressions is no whole number above 0"))
        checks.append((wrong_clicks, "bad_count: clicks is no whole number from 0 to impressions"))
    else:
        checks.append((wrong_clicks, "bad_click: clicked is not 0, 1, true or false"))
    if "user" in values or "session" in values:
        checks.append(((rows.user == 0) & (rows.session == 0), "no_session: session and user are empty; expected one of them"))
    if "time" in values:
        checks.append(
            (np.isnan(rows.time), "bad_time: expected ISO 8601, such as 2026-01-31T12:00:00Z, or seconds or milliseconds since 1970")
        )
    return np.select([wrong for wrong, _ in checks], [text for _, text in checks], default="")


def _hashes(column: "pa.Array") -> NDArray[np.uint64]:
    """Returns a hash of each text, the same on each machine; 0 for none."""
    import pandas as pd

    encoded = _as_texts(column).dictionary_encode()
    names = np.array([*encoded.dictionary.to_pylist(), ""], dtype=object)
    hashes = pd.util.hash_array(names, categorize=False).astype(np.uint64)
    hashes[names == ""] = 0
    return hashes[encoded.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False)]


def _whole(column: "pa.Array", kind: type[np.signedinteger[Any]]) -> NDArray[Any]:
    values = _numbers(column)
    usable = (values >= 0) & (values <= np.iinfo(kind).max) & (values == np.floor(values))
    return np.where(usable, values, -1).astype(kind)


def _numbers(column: "pa.Array") -> NDArray[np.float64]:
    """Returns the numbers of a column, NaN where there is none; true is 1 and false 0."""
    import pandas as pd
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    texts = pd.Series(_as_texts(column).to_numpy(zero_copy_only=False), dtype=object).str.strip().str.lower()
    return pd.to_numeric(texts.replace({"true": "1", "false": "0"}), errors="coerce").to_numpy(dtype=np.float64)


def _seconds(column: "pa.Array") -> NDArray[np.float64]:
    """Returns times as seconds since 1970, NaN where there is none. Numbers above LATEST are milliseconds. Times without a zone are UTC."""
    import pandas as pd
    import pyarrow as pa

    if pa.types.is_temporal(column.type):
        if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
            return np.full(len(column), np.nan)  # a time of day, or a duration
        microseconds = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
        return microseconds.to_numpy(zero_copy_only=False).astype(np.float64) / 1e6
    seconds = _numbers(column)
    if (missing := np.isnan(seconds)).any() and not pa.types.is_floating(column.type):
        # One time that does not fit into 64 bits as nanoseconds would make pandas refuse all.
        texts = [text if text is not None and "1970" <= text[:4] <= "2261" else None for text in _as_texts(column).to_pylist()]
        times = pd.to_datetime(pd.Series(texts, dtype=object), utc=True, errors="coerce", format="ISO8601")
        parsed = (times - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(dtype=np.float64)
        seconds = np.where(missing, parsed, seconds)
    seconds = np.where(seconds > LATEST, seconds / 1000, seconds)
    return np.where((seconds >= 0) & (seconds <= LATEST), seconds, np.nan)
