"""One video's files as the decoders see them: checked, opened once, and known by their content and never by their names."""

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
        """Raises VideoError for files that are missing, unreadable, no regular files, empty, too large or cut off."""
        self.files = tuple(files)
        self.limits = limits
        self.name = files[0].name
        """What messages call the video: the same on every machine."""
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
        """Where a library opens the (first) file.

        A descriptor where the system names them, since a name can mislead a demuxer: its ending chooses one, `%d` in it makes it a
        pattern of other files, and bytes that are no text cannot be given to it at all.
        """
        return f"{DESCRIPTORS}/{self._opened.fileno()}" if DESCRIPTORS.is_dir() else f"file:{self.files[0].absolute()}"

    @cached_property
    def track(self) -> Track:
        """What the container says of its video, read when first asked for. Raises VideoError for what is no video, or cut off."""
        if containers.is_playlist(self._opened):
            raise VideoError(
                "not_a_video", f"{self.name}: a list that names other files, which are never opened; list the videos themselves"
            )
        announced, size = containers.announced_size(self._opened), os.fstat(self._opened.fileno()).st_size
        if announced is not None and announced > size:
            raise VideoError("truncated", f"{self.name}: cut off: it announces {announced} bytes and has {size}; copy it again")
        return read_track(self.address, self.name, self.limits)

    @cached_property
    def orientation(self) -> Orientation:
        """How the first frame is to be turned and mirrored. Decodes it."""
        return first_orientation(self.address, self.name, is_probed=self.track.is_probed)

    def _check(self, file: Path) -> int:
        status = check_regular_file(file, file.name)
        if status.st_size == 0:
            raise VideoError("empty", f"{file.name}: an empty file")
        if not os.access(file, os.R_OK):
            raise VideoError("unreadable", f"{file.name}: this user may not read it; change its permissions")
        return status.st_size
