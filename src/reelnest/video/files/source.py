"""One video's files as decoders read them: checked, opened once, and identified by content instead of file name."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

from reelnest.errors import VideoError
from reelnest.records.safe_paths import check_regular_file
from reelnest.video.files import containers
from reelnest.video.files.pictures import Orientation
from reelnest.video.files.track import Track, first_orientation, read_track
from reelnest.video.limits import Limits

DESCRIPTORS = Path("/proc/self/fd")


class Source:
    """One video: a video file, or the images of a frame folder in order. Close it, or use it in a `with` statement."""

    def __init__(self, files: Sequence[Path], limits: Limits) -> None:
        """Raises VideoError for files that are missing, unreadable, not regular files, empty or too large."""
        self.files = tuple(files)
        self.limits = limits
        self.name = files[0].name
        """The video's name in messages, which is the same on every machine."""
        size = sum(self._check(file) for file in self.files)
        if size > limits.megabytes * 1e6:
            raise VideoError("too_large", f"{self.name}: {size / 1e6:.1f} MB; at most {limits.megabytes:g} are allowed")
        self._opened = files[0].open("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def address(self) -> str:
        """The path at which a library opens the (first) file.

        A file descriptor where the system supports it, because demuxers interpret file names: the suffix chooses the demuxer, `%d` makes
        the name a pattern of other files, and names that are not valid text cannot be passed.
        """
        return f"{DESCRIPTORS}/{self._opened.fileno()}" if DESCRIPTORS.is_dir() else f"file:{self.files[0].absolute()}"

    @cached_property
    def track(self) -> Track:
        """The container's video track, read on first use. Raises VideoError for a file that is not a video, or truncated."""
        if containers.is_playlist(self._opened):
            raise VideoError(
                "not_a_video", f"{self.name}: a playlist, and the files that it names are never opened; list the videos themselves"
            )
        announced, size = containers.announced_size(self._opened), os.fstat(self._opened.fileno()).st_size
        if announced is not None and announced > size:
            raise VideoError("truncated", f"{self.name}: truncated: expected {announced} bytes, found {size}; copy it again")
        return read_track(self.address, self.name, self.limits)

    @cached_property
    def orientation(self) -> Orientation:
        """Orientation of the first frame, which is decoded to find it."""
        return first_orientation(self.address, self.name, is_probed=self.track.is_probed)

    def _check(self, file: Path) -> int:
        status = check_regular_file(file, file.name)
        if status.st_size == 0:
            raise VideoError("empty", f"{file.name}: an empty file")
        if not os.access(file, os.R_OK):
            raise VideoError("unreadable", f"{file.name}: no permission to read it; change its permissions")
        return status.st_size
