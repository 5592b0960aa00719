"""The files of a video as the parent of a decoder process checks and opens them. The process itself cannot open a file."""

import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from reelnest.errors import VideoError
from reelnest.records.files.safe_paths import check_regular_file
from reelnest.records.files.tar_members import find_member, tar_of
from reelnest.video.limits import Limits

LARGEST_IN_MEMORY = 256 * 2**20
"""Bytes of a member of a tar file."""


def check_files(files: Sequence[Path], limits: Limits) -> None:
    """Raises VideoError for files that are missing, unreadable, not regular files, empty or together too large."""
    size = sum(_checked_size(file) for file in files)
    if not limits.allow_bytes(size):
        raise VideoError("too_large", f"{files[0].name}: {size / 1e6:.1f} MB; at most {limits.megabytes:g} are allowed")


def _checked_size(file: Path) -> int:
    size = check_regular_file(file, file.name)
    if size == 0:
        raise VideoError("empty", f"{file.name}: an empty file")
    if not os.access(file, os.R_OK) and not os.access(tar_of(file) or file, os.R_OK):
        raise VideoError("unreadable", f"{file.name}: no permission to read it; change its permissions")
    return size


def open_file(file: Path) -> int:
    """Returns a descriptor for reading a file that `check_files` accepted. Raises VideoError if it has changed since.

    A member of a tar file is copied into memory, or into a file without a name if it is large: a decoder process that had the tar file
    open could read all of it.
    """
    check_regular_file(file, file.name)
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe would block
    except NotADirectoryError:
        return _open_member(file)
    except OSError as error:
        raise VideoError("unreadable", f"{file.name}: cannot be opened ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise VideoError("not_a_file", f"{file.name}: it was replaced while it was read")
    return descriptor


def _open_member(file: Path) -> int:
    member = find_member(file)
    if member is None:
        raise VideoError("missing", f"{file.name}: it was removed while it was read")
    descriptor = _nameless_file(member.size)
    try:
        with open(descriptor, "wb", closefd=False) as copy:
            for block in member.blocks():
                copy.write(block)
            size = copy.tell()
        if size != member.size:
            raise VideoError("truncated", f"{file.name}: {member.tar.name} was cut while it was read")
        os.lseek(descriptor, 0, os.SEEK_SET)
    except VideoError:
        os.close(descriptor)
        raise
    except OSError as error:
        os.close(descriptor)
        raise VideoError("unreadable", f"{file.name}: cannot be read ({error.strerror})") from None
    return descriptor


def _nameless_file(size: int) -> int:
    if size <= LARGEST_IN_MEMORY and hasattr(os, "memfd_create"):
        return os.memfd_create("reelnest-video", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
