"""The feature cache: output rows of a frozen module for each entry, in a memory-mapped file, so that they are computed once.

A folder with `rows.bin` (the rows of all entries in order), `counts.npy` (rows per entry; 0: not cached) and `rows.json` (metadata). All
processes write to a temporary folder at once, each its own entries; the first process then renames it.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reelnest.atomic_files import aside_of, flush, orphans_of, write_json
from reelnest.errors import DataError
from reelnest.video.vision_spec import VisionSpec, differences

Rows = NDArray[np.generic]
"""(rows, width), float32, float16, or uint16 for the bits of bfloat16, which NumPy does not support."""

ROWS_FILE, COUNTS_FILE, FACTS_FILE = "rows.bin", "counts.npy", "rows.json"


class CachedRows:
    """Reads a folder that `CachedRowsWriter` wrote, by entry number."""

    def __init__(self, folder: Path, vision: VisionSpec) -> None:
        """Raises OSError for a missing folder, DataError for rows from frames with another vision spec."""
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        if different := differences(VisionSpec.of(facts["vision"]), vision):
            raise DataError(f"{folder}: cached for another model family ({'; '.join(different)}). Remove it and start again.")
        self._counts: NDArray[np.int64] = np.load(folder / COUNTS_FILE, allow_pickle=False)
        self._starts = np.cumsum(self._counts) - self._counts
        shape = (int(self._counts.sum()), int(facts["width"]))
        # A plain array, because slicing a memmap is slow.
        self._rows: Rows = np.asarray(np.memmap(folder / ROWS_FILE, dtype=facts["dtype"], mode="r", shape=shape))

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and bool(self._counts[number])

    def __getitem__(self, number: int) -> Rows:
        """Returns a read-only view of the entry's rows, (rows, width). Raises KeyError if it is not cached."""
        if number not in self:
            raise KeyError(number)
        start = self._starts[number]
        return self._rows[start : start + self._counts[number]]


class CachedRowsWriter:
    """Writes a folder of cached rows with several processes that share a disk.

    The first process calls `begin` and sends the folder's path to the others. Each process calls `put` for its entries and `close`. Then
    the first process calls `finish`; until then `folder` does not exist.
    """

    def __init__(self, aside: Path, counts: NDArray[np.int64], width: int, dtype: str) -> None:
        self._counts, self._starts = counts, np.cumsum(counts) - counts
        self._shape_of_row = (width,)
        self._dtype = np.dtype(dtype)
        self._bytes = width * self._dtype.itemsize
        self._file = os.open(aside / ROWS_FILE, os.O_WRONLY)

    @staticmethod
    def begin(folder: Path) -> Path:
        """Creates an empty temporary folder beside `folder`, and removes those of killed processes."""
        for orphan in orphans_of(folder):
            shutil.rmtree(orphan)
        aside = aside_of(folder)
        aside.mkdir()
        (aside / ROWS_FILE).touch()
        return aside

    def put(self, number: int, rows: Rows) -> None:
        """Writes an entry's rows. Raises ValueError for another shape or dtype than announced."""
        if rows.shape != (self._counts[number], *self._shape_of_row) or rows.dtype != self._dtype:
            raise ValueError(f"entry {number}: {rows.dtype} {rows.shape}, expected {self._counts[number]} rows of {self._shape_of_row}")
        rest, offset = memoryview(rows.tobytes()), int(self._starts[number]) * self._bytes
        while rest:
            written = os.pwrite(self._file, rest, offset)
            rest, offset = rest[written:], offset + written

    def close(self) -> None:
        """Waits until this process's rows are on the disk."""
        os.fsync(self._file)
        os.close(self._file)

    def finish(self, aside: Path, folder: Path, vision: VisionSpec, facts: Mapping[str, object]) -> None:
        """Renames the temporary folder to `folder`. `facts` are stored in its metadata, with the frames' vision spec."""
        np.save(aside / COUNTS_FILE, self._counts, allow_pickle=False)
        flush(aside / COUNTS_FILE)
        write_json(aside / FACTS_FILE, {**facts, "vision": asdict(vision), "width": self._shape_of_row[0], "dtype": self._dtype.name})
        flush(aside)
        aside.replace(folder)
        flush(folder.parent)
