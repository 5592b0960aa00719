"""`reelnest data import table` of ten million rows, beside plain reading of the same file with pyarrow.

Ours reads the table in batches, checks every row and writes `videos.jsonl`, `pairs.jsonl` and the 1,000 video files. Theirs reads the whole
table into memory with one call, and does nothing with it.
"""

import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import Benchmark, Figures, peak_kilobytes

ROWS, VIDEOS = 10_000_000, 1000
FEW_ROWS = 3_000_000
"""Enough rows for all of Arrow's buffers to be in use, so that what grows from here on grows with the rows."""
FOLDER = Path(tempfile.gettempdir()) / "reelnest-tables"
WORDS = [
    "red",
    "blue",
    "small",
    "large",
    "ring",
    "square",
    "moving",
    "still",
    "over",
    "under",
    "a",
    "the",
    "with",
    "dog",
    "jumps",
    "quickly",
]


def _source(suffix: str, rows: int) -> Path:
    return FOLDER / f"{rows}-{suffix}.json"


def _make(suffix: str, *counts: int) -> None:
    """Writes tables, each in a process of its own: the peak memory of this one would count as that of the sides, its children."""
    for rows in counts:
        if not _source(suffix, rows).is_file():
            process = multiprocessing.get_context("spawn").Process(target=_write_table, args=(suffix, rows))
            process.start()
            process.join()
            if process.exitcode != 0:
                raise RuntimeError(f"no {suffix} table of {rows} rows was written")


def _write_table(suffix: str, rows: int) -> None:
    """Writes a table of searches, all different, for videos that are a few bytes each, and its map."""
    (FOLDER / "clips").mkdir(parents=True, exist_ok=True)
    for number in range(VIDEOS):
        (FOLDER / "clips" / f"clip{number}.mp4").write_bytes(f"video {number}".encode())
    table = FOLDER / f"{rows}.{suffix}"
    with _writer(table) as write:
        for first in range(0, rows, 1_000_000):
            write(_rows(first, min(1_000_000, rows - first)))
    _source(suffix, rows).write_text(json.dumps({"table": table.name, "videos": "clips", "query": "query", "video": "file"}))


def _rows(first: int, count: int) -> Any:
    import numpy as np
    import pyarrow as pa
    from pyarrow import compute

    random = np.random.default_rng(first)
    words, files = pa.array(WORDS), pa.array([f"clip{number}.mp4" for number in range(VIDEOS)])
    chosen = [words.take(pa.array(random.integers(0, len(WORDS), count))) for _ in range(5)]
    queries = compute.binary_join_element_wise(*chosen, compute.cast(pa.array(np.arange(first, first + count)), pa.string()), " ")
    return pa.table({"query": queries, "file": files.take(pa.array(random.integers(0, VIDEOS, count)))})


@contextmanager
def _writer(table: Path) -> Iterator[Callable[[Any], object]]:
    """Opens a table, and yields what writes rows to it."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    schema = pa.schema([("query", pa.string()), ("file", pa.string())])
    if table.suffix == ".csv":
        with csv.CSVWriter(table, schema, write_options=csv.WriteOptions(quoting_style="needed")) as opened:
            yield opened.write
    elif table.suffix == ".parquet":
        with parquet.ParquetWriter(table, schema) as opened:
            yield opened.write_table
    else:
        with table.open("w") as opened:
            yield lambda rows: opened.writelines(json.dumps(row) + "\n" for row in rows.to_pylist())


def _import(suffix: str, rows: int) -> Figures:
    from reelnest.records.importing import import_data

    destination = FOLDER / "imported"
    shutil.rmtree(destination, ignore_errors=True)
    started = time.perf_counter()
    imported = import_data("table", _source(suffix, rows), destination)
    seconds = time.perf_counter() - started
    if (imported.videos, imported.pairs) != (VIDEOS, rows):
        raise RuntimeError(f"{imported.videos} videos and {imported.pairs} pairs, not {VIDEOS} and {rows}")
    shutil.rmtree(destination)
    sys.stderr.write(f"  {suffix}, {rows:,} rows: {seconds:.1f} s, peak {peak_kilobytes() / 1000:.0f} MB\n")
    return {"pairs/s": rows / seconds, "kilobytes": peak_kilobytes()}


def _read(suffix: str) -> Figures:
    from pyarrow import csv, json, parquet

    read: dict[str, Callable[[Path], Any]] = {"csv": csv.read_csv, "parquet": parquet.read_table, "jsonl": json.read_json}
    started = time.perf_counter()
    read[suffix](FOLDER / f"{ROWS}.{suffix}")
    return {"pairs/s": ROWS / (time.perf_counter() - started)}


def _rate(suffix: str, call: str) -> Benchmark:
    return Benchmark(
        what=f"importing a {suffix} table of {ROWS:,} rows: every row checked, pairs written",
        against=f"pyarrow.{call}, which reads it into memory",
        at_least=0.2,
        ours=lambda: lambda: _import(suffix, ROWS),
        theirs=lambda: lambda: _read(suffix),
        unit="pairs/s",
        runs=3,
        setup=lambda: _make(suffix, ROWS),
    )


BENCHMARKS = {
    "import-csv": _rate("csv", "csv.read_csv"),
    "import-parquet": _rate("parquet", "parquet.read_table"),
    "import-jsonl": _rate("jsonl", "json.read_json"),
    "import-memory": Benchmark(
        what=f"peak memory of importing a csv table of {ROWS:,} rows, libraries included",
        against=f"the same with {FEW_ROWS:,} rows",
        at_least=0.9,
        ours=lambda: lambda: _import("csv", ROWS),
        theirs=lambda: lambda: _import("csv", FEW_ROWS),
        unit="kilobytes",
        counts=True,
        runs=1,
        setup=lambda: _make("csv", ROWS, FEW_ROWS),
    ),
}
