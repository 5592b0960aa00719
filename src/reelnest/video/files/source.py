"""One video's files as decoders read them: opened by the parent process, and identified by content instead of file name."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from fractions import Fraction
from functools import cached_property
from typing import BinaryIO

from reelnest.errors import VideoError
from reelnest.video.files import containers
from reelnest.video.files.track import Look, Track, first_look, read_track
from reelnest.video.limits import Limits


class Source:
    """One video: a video file, or the images of a frame folder in order. Close it."""

    def __init__(self, names: Sequence[str], first: int, open_file: Callable[[int], int], limits: Limits) -> None:
        """`first` is a descriptor of the first file, `open_file` returns one of the file with a number in `names`, or raises VideoError."""
        self.names = tuple(names)
        """The files' names in messages, which are the same on every machine."""
        self.name = self.names[0]
        self.limits = limits
        self._open_file = open_file
        self._first = os.fdopen(first, "rb", buffering=0)  # libraries move the offset too
        self._resources = ExitStack()

    def close(self) -> None:
        """Closes the files."""
        self._resources.close()
        self._first.close()

    @property
    def descriptor(self) -> int:
        """Descriptor of the (first) file, at its beginning. Only one library may read it at a time.

        Libraries open it as `fd:`. Given a name, demuxers would interpret it: the suffix would choose the demuxer, and `%d` would make it a
        pattern of other files.
        """
        self._first.seek(0)
        return self._first.fileno()

    def file(self, number: int) -> BinaryIO:
        """Returns the file with this number, at its beginning. The caller closes it."""
        return os.fdopen(os.dup(self.descriptor) if number == 0 else self._open_file(number), "rb")

    @cached_property
    def track(self) -> Track:
        """The container's video track, read on first use. Raises VideoError for a file that is not a video, or truncated."""
        if containers.is_playlist(self._first):
            raise VideoError(
                "not_a_video", f"{self.name}: a playlist, and the files that it names are never opened; list the videos themselves"
            )
        announced, size = containers.announced_size(self._first), os.fstat(self._first.fileno()).st_size
        if announced is not None and announced > size:
            raise VideoError("truncated", f"{self.name}: truncated: expected {announced} bytes, found {size}; copy it again")
        return read_track(self.descriptor, self.name, self.limits, self._resources)

    @cached_property
    def look(self) -> Look:
        """The look of the first frame, which is decoded to find it."""
        return first_look(self.descriptor, self.name, is_probed=self.track.is_probed)

    @property
    def aspect(self) -> Fraction | None:
        """`Track.aspect`, or that of the codec's header if the container has none."""
        return self.track.aspect or self.look.aspect
