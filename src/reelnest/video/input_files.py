"""The files of a video as the parent of a decoder process checks and opens them. The process itself cannot open a file."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from reelnest.errors import VideoError
from reelnest.records.safe_paths import check_regular_file
from reelnest.video.limits import Limits


def check_files(files: Sequence[Path], limits: Limits) -> None:
    """Raises VideoError for files that are missing, unreadable, not regular files, empty or together too large."""
    size = sum(_checked_size(file) for file in files)
    if not limits.allow_bytes(size):
        raise VideoError("too_large", f"{files[0].name}: {size / 1e6:.1f} MB; at most {limits.megabytes:g} are allowed")


def _checked_size(file: Path) -> int:
    size = check_regular_file(file, file.name).st_size
    if size == 0:
        raise VideoError("empty", f"{file.name}: an empty file")
    if not os.access(file, os.R_OK):
        raise VideoError("unreadable", f"{file.name}: no permission to read it; change its permissions")
    return size


def open_file(file: Path) -> int:
    """A descriptor for reading a file that `check_files` accepted. Raises VideoError if it has changed since."""
    check_regular_file(file, file.name)
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe would block
    except OSError as error:
        raise VideoError("unreadable", f"{file.name}: cannot be opened ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise VideoError("not_a_file", f"{file.name}: it was replaced while it was read")
    return descriptor
