"""Files that are whole or absent: written aside, flushed to disk, then put in place in one step.

A stage that is killed leaves the file of the run before, or none, and never half of one that the next stage takes for whole.
"""

import ctypes
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

# The kernel's own numbers, which Python does not name.
AT_FDCWD, RENAME_EXCHANGE = -100, 2


def write_json(path: Path, value: Any) -> None:
    """Writes `value` in the form that all reports have. NaN, which is no JSON, raises ValueError."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_lines(path, [text])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes each of `lines` with a line end, as UTF-8."""
    with atomic_write(path) as file:
        for line in lines:
            file.write(line.encode("utf-8") + b"\n")


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends without an error."""
    aside = aside_of(path)
    try:
        with aside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` that takes its place when the block ends without an error."""
    aside = aside_of(path)
    aside.mkdir()
    try:
        yield aside
        flush_folder(aside)
        replace_folder(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def replace_folder(aside: Path, path: Path) -> None:
    """Gives the folder `aside`, which is on the disk, the name `path`, and removes the folder that had it."""
    before = aside_of(path)
    try:
        # A folder cannot be replaced in one step: for a moment there is none, which is never taken for whole. A half deleted one might be.
        if path.exists():
            path.replace(before)
        aside.replace(path)
        flush(path.parent)
    finally:
        shutil.rmtree(before, ignore_errors=True)


def exchange_folders(one: Path, other: Path) -> None:
    """Each gets the other's name, in one step where the system can do that (Linux): at no moment is either name without a folder."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is not None and rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return
    between = aside_of(other)
    other.replace(between)
    one.replace(other)
    between.replace(one)


def flush_folder(folder: Path) -> None:
    """Waits until all that is in a folder is on the disk."""
    os.sync()  # all at once: a thousand files that each wait for the disk take ten times as long
    for written in folder.rglob("*"):
        flush(written)


def flush(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def aside_of(path: Path) -> Path:
    """A name of its own beside `path`, so that two runs in one folder cannot mix their bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")
