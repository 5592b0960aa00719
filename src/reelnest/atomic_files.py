"""Atomic writes: a file or folder is written under a temporary name, flushed to disk, then renamed.

A killed stage leaves the file of the previous run, or none, and never an incomplete file that the next stage would read.
"""

import ctypes
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

# Constants of the Linux kernel that Python does not define.
AT_FDCWD, RENAME_EXCHANGE = -100, 2
TOKEN = re.compile(r"[0-9a-f]{16}")
"""The end of a temporary name."""

log = logging.getLogger(__name__)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` in the JSON format of all reports. Raises ValueError for NaN and infinity, which are not valid JSON."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_lines(path, [text])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes `lines` as UTF-8, each with a line end."""
    with atomic_write(path) as file:
        for line in lines:
            file.write(line.encode("utf-8") + b"\n")


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yields a binary file that replaces `path` when the block ends without an error."""
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
    """Yields an empty folder that replaces `path` when the block ends without an error."""
    aside = aside_of(path)
    aside.mkdir()
    try:
        yield aside
        flush_folder(aside)
        replace_folder(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def replace_folder(aside: Path, path: Path) -> None:
    """Renames the folder `aside`, which must be flushed to disk, to `path`, and removes the previous folder."""
    before = aside_of(path)
    try:
        # A folder cannot be replaced in one step. So there is a moment without one, but never a partly deleted one at `path`.
        if path.exists():
            path.replace(before)
        aside.replace(path)
        flush(path.parent)
    finally:
        shutil.rmtree(before, ignore_errors=True)


def exchange_folders(first: Path, second: Path) -> None:
    """Swaps the names of two folders. On Linux this is one step, so both names exist at all times."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is not None and rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return
    between = aside_of(second)
    second.replace(between)
    first.replace(second)
    between.replace(first)


def flush_folder(folder: Path) -> None:
    """Waits until all files in a folder are on the disk."""
    os.sync()  # first all at once: flushing a thousand files one by one takes ten times as long
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
    """Returns a unique temporary path in the folder of `path`, so that two runs never write to the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def orphans_of(path: Path) -> list[Path]:
    """Returns the temporary paths of `path` (`aside_of`) that exist, sorted: those of killed processes if no other one writes to `path`.

    Similar names are others' files: `.data.backup` is not temporary.
    """
    if not path.parent.is_dir():
        return []
    start = f".{path.name}."
    return sorted(each for each in path.parent.iterdir() if each.name.startswith(start) and TOKEN.fullmatch(each.name[len(start) :]))


@contextmanager
def wait_for_lock(lock: Path, out: Path | str) -> Iterator[None]:
    """Holds the lock file during the block. Waits for another process that holds it, with a line in the log that names `out`."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    file_lock = FileLock(lock)  # released when the process ends, even if it is killed
    try:
        file_lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting for another process that writes %s", out)
        file_lock.acquire()
    try:
        yield
    finally:
        file_lock.release()
