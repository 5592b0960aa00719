"""Rows of numbers, kept in a memory-mapped file: what a frozen part of the model made of each thing, so that it is made once.

A folder with `rows.bin`, the rows of all things one after the other, `counts.npy`, how many each thing has (0: not kept), and
`rows.json`. It is written aside by all processes at once, each at its places, and put in place by the first.
"""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reelnest.atomic_files import flush, write_json
from reelnest.errors import DataError
from reelnest.video.vision_spec import VisionSpec, differences

Rows = NDArray[np.generic]
"""(rows, width), float32 or float16, or uint16: the bits of bfloat16, which NumPy does not know."""

ROWS_FILE, COUNTS_FILE, FACTS_FILE = "rows.bin", "counts.npy", "rows.json"


class CachedRows:
    """Reads what `CachedRowsWriter` wrote, thing by number."""

    def __init__(self, folder: Path, vision: VisionSpec) -> None:
        """Raises OSError for a folder that is not there, DataError for rows of frames that were cut for another vision spec."""
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        if different := differences(VisionSpec.of(facts["vision"]), vision):
            raise DataError(f"{folder}: was made from frames for another model family ({'; '.join(different)}). Remove it and start again.")
        self._counts: NDArray[np.int64] = np.load(folder / COUNTS_FILE, allow_pickle=False)
        self._starts = np.cumsum(self._counts) - self._counts
        shape = (int(self._counts.sum()), int(facts["width"]))
        # As a plain array: views of a memmap are slow to make.
        self._rows: Rows = np.asarray(np.memmap(folder / ROWS_FILE, dtype=facts["dtype"], mode="r", shape=shape))

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and bool(self._counts[number])

    def __getitem__(self, number: int) -> Rows:
        """A read-only view of the thing's rows. Raises KeyError where it was not kept."""
        if number not in self:
            raise KeyError(number)
        start = self._starts[number]
        return self._rows[start : start + self._counts[number]]


class CachedRowsWriter:
    """Writes a folder of kept rows with several processes, which share its disk.

    The first one calls `begin`, and tells the others where it writes; each then `put`s its things; when all are done, the first one calls
    `finish`. Where that is not reached, nothing is there.
    """

    def __init__(self, aside: Path, counts: NDArray[np.int64], width: int, dtype: str) -> None:
        self._counts, self._starts = counts, np.cumsum(counts) - counts
        self._shape_of_row = (width,)
        self._dtype = np.dtype(dtype)
        self._bytes = width * self._dtype.itemsize
        self._file = os.open(aside / ROWS_FILE, os.O_WRONLY)

    @staticmethod
    def begin(folder: Path) -> Path:
        """An empty place beside `folder`, cleared of what killed processes left there."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{folder.name}.*"):
            shutil.rmtree(left)
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
        aside.mkdir()
        (aside / ROWS_FILE).touch()
        return aside

    def put(self, number: int, rows: Rows) -> None:
        """Writes a thing's rows to their place."""
        if rows.shape != (self._counts[number], *self._shape_of_row) or rows.dtype != self._dtype:
            raise ValueError(f"thing {number}: {rows.dtype} {rows.shape}, expected {self._counts[number]} rows of {self._shape_of_row}")
        rest, offset = memoryview(rows.tobytes()), int(self._starts[number]) * self._bytes
        while rest:
            written = os.pwrite(self._file, rest, offset)
            rest, offset = rest[written:], offset + written

    def close(self) -> None:
        """Waits until this process's rows are on the disk."""
        os.fsync(self._file)
        os.close(self._file)

    def finish(self, aside: Path, folder: Path, vision: VisionSpec, facts: Mapping[str, object]) -> None:
        """Puts the folder in place, with the vision spec of the frames, and `facts` for whoever looks at it."""
        np.save(aside / COUNTS_FILE, self._counts, allow_pickle=False)
        flush(aside / COUNTS_FILE)
        write_json(aside / FACTS_FILE, {**facts, "vision": asdict(vision), "width": self._shape_of_row[0], "dtype": self._dtype.name})
        flush(aside)
        aside.replace(folder)
        flush(folder.parent)
