"""Reads the columns of a CSV, TSV, JSON-lines or Parquet file in batches.

Arrow reads what has the expected form. Rows that Arrow refuses, such as CSV rows with too few fields or JSON values of several types, are
read one by one by Python, which has an error message for each.
"""

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reelnest.errors import DataError
from reelnest.messages import some_of
from reelnest.records.importers.importer import BadRow, Origin
from reelnest.records.json_lines import RecordError, check_is_file, is_encodable, parse_record

if TYPE_CHECKING:
    import pyarrow as pa

PlainRow = tuple[Origin, dict[str, Any]]

BLOCK_BYTES = 2 * 2**20
PARQUET_ROWS = 2**16


@dataclass(frozen=True)
class ColumnBatch:
    """Some rows of a table."""

    file: str
    rows: NDArray[np.int64]
    """The number of each row: its line in a JSON-lines file, its record in others, where a CSV file's header is the first."""
    columns: dict[str, "pa.Array"]
    """Text columns of CSV and JSON-lines files are strings; others have the type of the file."""


def read_batches(table: Path, columns: Sequence[str], numbers: Collection[str] = ()) -> Iterator[ColumnBatch | PlainRow | BadRow]:
    """Yields the rows of a table in their order: batches, and single rows that Arrow cannot read. Blank lines of a CSV file do not count.

    Args:
        table: A `.csv`, `.tsv`, `.jsonl`, `.ndjson` or `.parquet` file, or a folder of `.parquet` files, also in folders inside, which are
            read in the order of their paths and whose rows are counted together.
        columns: The columns to read. A missing value is null.
        numbers: Those of `columns` that need not be texts in a JSON-lines file.

    Raises:
        DataError: for another suffix, a missing column of a CSV or Parquet file, or a file that cannot be read.
    """
    if table.is_dir():
        yield from _folder(table, columns)
        return
    check_is_file(table)
    suffix = table.suffix.lower()
    if suffix in (".csv", ".tsv"):
        yield from _csv(table, columns)
    elif suffix in (".jsonl", ".ndjson"):
        yield from _json_lines(table, columns, numbers)
    elif suffix == ".parquet":
        yield from _parquet(table, columns)
    else:
        raise DataError(f"{table}: expected .csv, .tsv, .jsonl or .parquet.")


def read_rows(table: Path, columns: Sequence[str]) -> Iterator[PlainRow | BadRow]:
    """Reads like `read_batches`, row by row. A row without a value of a column may lack its key."""
    for batch in read_batches(table, columns):
        if isinstance(batch, ColumnBatch):
            values = [batch.columns[name].to_pylist() for name in columns]
            for row, *record in zip(batch.rows.tolist(), *values, strict=True):
                yield Origin(batch.file, row), dict(zip(columns, record, strict=True))
        else:
            yield batch


def parquet_columns(table: Path) -> list[str]:
    """Returns the names of a Parquet file's columns. Raises DataError if it cannot be read."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_schema(table).names
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(table, error) from error


def _unreadable(table: Path, error: Exception) -> DataError:
    return DataError(f"{table}: not readable as Parquet: {error}. Write it again, or download it again.")


def _check_columns(table: Path, columns: Sequence[str], names: Sequence[str]) -> None:
    if missing := [column for column in columns if column not in names]:
        raise DataError(f"{table}: there is no column {missing[0]}; its columns are {some_of(names, most=20) or 'none'}.")
    if repeated := [column for column in columns if names.count(column) > 1]:
        raise DataError(f"{table}: there are two columns {repeated[0]}; rename one.")


def _csv(table: Path, columns: Sequence[str]) -> Iterator[ColumnBatch | PlainRow | BadRow]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
    # Python decodes more than the header, so that an error would name another line.
    with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
        try:
            names = next(csv.reader(opened, delimiter=delimiter), [])
        except csv.Error as error:
            raise DataError(f"{table}: its header is not readable as CSV: {error}. Save the file as UTF-8.") from error
    if not all(map(is_encodable, names)):
        raise DataError(f"{table}: its header is not readable as CSV: it is not UTF-8. Save the file as UTF-8.")
    _check_columns(table, columns, names)
    ragged: list[tuple[int, str]] = []
    last = 1  # the header's row

    def skip(row: "arrow_csv.InvalidRow") -> str:
        ragged.append((row.number, row.text))
        return "skip"

    try:
        batches = arrow_csv.open_csv(
            table,
            arrow_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),  # with threads, rows have no numbers
            arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
            arrow_csv.ConvertOptions(
                check_utf8=False, include_columns=columns, column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
            ),
        )
        empty = pa.RecordBatch.from_pylist([], batches.schema)
        for batch in chain(batches, [empty]):  # rows at the end may all be ragged
            while batch.num_rows or (ragged and batch is empty):
                until = ragged[0][0] - last - 1 if ragged else batch.num_rows
                if batch.num_rows and until:
                    ready = batch.slice(0, until)
                    yield from _decoded(table.name, last + 1 + np.arange(ready.num_rows), dict(zip(columns, ready.columns, strict=True)))
                    last += ready.num_rows
                    batch = batch.slice(until)
                else:
                    last, text = ragged.pop(0)
                    yield _ragged_row(Origin(table.name, last), text, names, delimiter)
    except pa.ArrowInvalid as error:
        is_long = "straddling" in str(error)
        problem = f"a row has more than {BLOCK_BYTES // 2**20} MiB, perhaps because a double quote is not closed" if is_long else error
        advice = "Save it as UTF-8, with its values in double quotes"
        raise DataError(f"{table}: not readable as CSV after row {last}: {problem}. {advice}.") from error


def _ragged_row(origin: Origin, text: str, names: Sequence[str], delimiter: str) -> PlainRow | BadRow:
    if "\n" in text and text.count('"') % 2:
        lines = text.count("\n")
        return BadRow(origin, "bad_csv", f"a double quote is not closed, so {lines:,} lines after it are not read; close it")
    try:
        values = next(csv.reader([text], delimiter=delimiter), [])
    except csv.Error as error:
        return BadRow(origin, "bad_csv", f"not readable as CSV: {error}; put its values into double quotes")
    return origin, dict(zip(names, values, strict=False))


def _json_lines(table: Path, columns: Sequence[str], numbers: Collection[str]) -> Iterator[ColumnBatch | PlainRow | BadRow]:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    texts = [column for column in columns if column not in numbers]
    options = arrow_json.ParseOptions(
        explicit_schema=pa.schema([(column, pa.string()) for column in texts]),
        unexpected_field_behavior="infer" if numbers else "ignore",
    )
    first = 1
    for block in _line_blocks(table):
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        try:
            read = arrow_json.read_json(pa.py_buffer(block), arrow_json.ReadOptions(block_size=len(block) + 1), options).combine_chunks()
        except pa.ArrowInvalid:
            read = None
        if read is not None and read.num_rows == lines:
            present = {name: read.column(name).combine_chunks() for name in columns if name in read.column_names}
            absent = {name: pa.nulls(lines, pa.string()) for name in columns if name not in present}
            yield ColumnBatch(table.name, first + np.arange(lines), {**present, **absent})
        else:
            for line, raw in enumerate(block.removesuffix(b"\n").split(b"\n"), start=first):
                try:
                    yield Origin(table.name, line), parse_record(raw + b"\n")
                except RecordError as error:
                    yield BadRow(Origin(table.name, line), error.reason, str(error))
        first += lines


def _line_blocks(file: Path) -> Iterator[bytes]:
    """Yields the bytes of a file in blocks of complete lines."""
    with file.open("rb") as opened:
        block = opened.read(BLOCK_BYTES).removeprefix(b"\xef\xbb\xbf")
        while block:
            block += opened.readline()
            yield block
            block = opened.read(BLOCK_BYTES)


def _parquet(table: Path, columns: Sequence[str]) -> Iterator[ColumnBatch | BadRow]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(table) as opened:
            _check_columns(table, columns, opened.schema_arrow.names)
            first = 1
            for batch in opened.iter_batches(PARQUET_ROWS, columns=columns):
                by_name = {name: _plain(batch.column(name)) for name in columns}
                yield from _decoded(table.name, first + np.arange(batch.num_rows), by_name)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(table, error) from error


def _folder(table: Path, columns: Sequence[str]) -> Iterator[ColumnBatch | BadRow]:
    # Partitions are folders. Spark and others write what is not complete into folders that begin with an underscore or a dot.
    files = sorted(file for file in table.rglob("*.parquet") if not any(name[0] in "_." for name in file.relative_to(table).parts))
    if not files:
        raise DataError(f"{table}: this folder has no .parquet file.")
    before = 0
    for file in files:
        rows = 0
        for batch in _parquet(file, columns):
            if isinstance(batch, BadRow):
                yield replace(batch, origin=Origin(table.name, batch.origin.row + before))
                rows += 1
            else:
                yield ColumnBatch(table.name, batch.rows + before, batch.columns)
                rows += len(batch.rows)
        before += rows


def _plain(column: "pa.Array") -> "pa.Array":
    """Returns the column as strings, which may be no UTF-8, if it has texts in another encoding or the bytes of texts."""
    import pyarrow as pa
    from pyarrow import compute

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return compute.cast(column, pa.string(), safe=False) if is_text or is_bytes else column


def _decoded(file: str, rows: NDArray[np.int64], columns: dict[str, "pa.Array"]) -> Iterator[ColumnBatch | BadRow]:
    """Yields the rows as a batch, after those whose texts are not UTF-8, each as a bad row."""
    import pyarrow as pa

    bad: dict[int, str] = {}
    for name, column in columns.items():
        try:
            if pa.types.is_string(column.type):
                column.validate(full=True)
        except pa.ArrowInvalid:
            bad |= dict.fromkeys(_not_utf8(column), name)
    for at in sorted(bad):
        yield BadRow(Origin(file, int(rows[at])), "wrong_encoding", f"the column {bad[at]} is not UTF-8; save the file as UTF-8")
    if bad:
        good = np.setdiff1d(np.arange(len(rows)), list(bad))
        rows, columns = rows[good], {name: column.take(pa.array(good)) for name, column in columns.items()}
    yield ColumnBatch(file, rows, columns)


def _not_utf8(column: "pa.Array") -> Iterator[int]:
    import pyarrow as pa

    for at, value in enumerate(column.cast(pa.binary()).to_pylist()):
        try:
            (value or b"").decode("utf-8")
        except UnicodeDecodeError:
            yield at
