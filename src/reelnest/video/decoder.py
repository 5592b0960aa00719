"""Decodes in a child process, so that a hang or crash of a decoder costs one video. The child is replaced afterwards.

`decoder_process.py` is the child; `child.py` starts it and exchanges messages with it.
"""

import logging
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from reelnest.errors import DataError, VideoError
from reelnest.records.segments import Segment
from reelnest.video.child import DecoderChild
from reelnest.video.decoders import AUTO
from reelnest.video.files.appearance import LOOK_BYTES
from reelnest.video.frames import Frames, FrameSettings
from reelnest.video.input_files import check_files
from reelnest.video.limits import Limits

__all__ = ["Decoder", "Limits", "VideoInfo", "available_workers", "in_parallel"]

log = logging.getLogger(__name__)

START_SECONDS = 120.0
"""Time limit for the child's imports, which are slow on a cold network disk. A video's time limit starts after them."""
MEMORY_BYTES = 8 * 1024**3
"""Address space of all decoder processes together; at most half of the machine's memory. A video that needs more fails alone."""
LEAST_MEMORY_BYTES = 3 * 1024**3 // 2
"""Minimum per process, of which its libraries take 0.8 GB."""
LOOK_AHEAD = 4
"""Jobs per worker that are submitted ahead of the first unfinished one."""

LOOK = re.compile(f"[0-9a-f]{{{2 * LOOK_BYTES}}}")

J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Properties of a video, measured by decoding some of its frames. A list of images counts as two frames a second."""

    frames: int
    seconds: float
    fps: float
    width: int
    height: int
    decoder: str = ""
    """Name of the decoder that read it."""
    file_frames: int = 0
    """Frames of the whole file, if the video is a segment of it."""
    file_seconds: float = 0.0
    seconds_before: float = 0.0
    """Time from the start of the file, as players count, to its first frame: its sound can begin earlier."""
    brightness: float | None = None
    """See `appearance`, as for the next three."""
    contrast: float | None = None
    change: float | None = None
    look: str = ""

    def is_within(self, limits: Limits) -> bool:
        """Returns whether the video, and the file of a segment, have at most the allowed frames and length."""
        return max(self.frames, self.file_frames) <= limits.frames and max(self.seconds, self.file_seconds) <= limits.seconds


class Decoder:
    """Decodes one video at a time in a child process, which it starts on first use and ends on `close`.

    Every method takes one video as a list of files: a video file, or the images of a frame folder in order. Bad videos raise VideoError
    with one of these reasons: missing, unreadable, not_a_file, empty, not_a_video, truncated, damaged, encrypted, bad_shape, bad_times,
    bad_colours, no_frames, too_many_frames, too_long, too_large, bad_segment, no_decoder, timeout, decoder_crashed. Thread-safe: calls run
    one after another.

    `workers` is the number of Decoders on this machine, whose child processes share MEMORY_BYTES.
    """

    def __init__(self, limits: Limits, workers: int = 1) -> None:
        self._limits = limits
        self._memory_bytes = max(LEAST_MEMORY_BYTES, min(MEMORY_BYTES, machine_memory_bytes() // 2) // workers)
        self._lock = threading.Lock()
        self._child: DecoderChild | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id; None while no child runs."""
        child = self._child
        return child.process.pid if child is not None else None

    def close(self) -> None:
        """Ends the child. A request that is running in another thread fails."""
        self._closed = True
        child = self._child
        if child is not None:
            child.kill()  # before waiting for the lock: its holder waits for the child
        with self._lock:
            self._drop()

    def inspect(self, files: Sequence[Path], decoder: str = AUTO, segment: Segment | None = None) -> VideoInfo:
        """Opens the video and decodes a few evenly spread frames, including the first and the last. The info is of the segment."""
        header, _ = self._request({"inspects": True, "decoder": decoder}, files, segment)
        return _info(header)

    def frames(self, files: Sequence[Path], settings: FrameSettings, segment: Segment | None = None) -> Frames:
        """Samples frames of the segment, by default of the whole video, resizes them and cuts them into patches, by `settings`."""
        return _frames(*self._request({"inspects": False, **_sampling(settings)}, files, segment), files, settings)

    def inspect_and_sample(
        self, files: Sequence[Path], settings: FrameSettings, segment: Segment | None = None
    ) -> tuple[VideoInfo, Frames | None]:
        """Returns what `inspect` and `frames` return, in the time of one. Where the frames cannot be sampled, they are None."""
        try:
            header, payload = self._request({"inspects": True, **_sampling(settings)}, files, segment)
        except VideoError:
            return self.inspect(files, settings.sampling.decoder, segment), None  # a video may be good except for a sampled frame
        return _info(header), _frames(header, payload, files, settings)

    def _request(self, request: dict[str, Any], files: Sequence[Path], segment: Segment | None) -> tuple[dict[str, Any], np.ndarray]:
        if not files:
            raise VideoError("no_frames", "a video without files")
        check_files(files, self._limits)
        times = None if segment is None else (segment.start, segment.end)
        request = {**request, "names": [file.name for file in files], "segment": times, "limits": asdict(self._limits)}
        with self._lock:
            while True:
                is_new = self._child is None
                child = self._start()
                try:
                    header, payload = child.exchange(request, files, time.monotonic() + self._limits.timeout_seconds)
                    break
                except TimeoutError:
                    self._drop()
                    raise VideoError(
                        "timeout", f"{files[0].name}: not decoded within {self._limits.timeout_seconds:g} s; the decoder was stopped"
                    ) from None
                except EOFError as error:
                    self._drop()
                    # An idle child may end for other reasons (the thread that started it has ended, the last video damaged its memory).
                    # So only a child that was started for this video counts as a crash of this video.
                    if is_new or self._closed:
                        # Its output may contain times and addresses. It goes to the log only: reports are the same on every machine.
                        if not self._closed:  # `close` kills it
                            log.warning("the decoder ended while reading %s (%s)", files[0], error)
                        raise VideoError("decoder_crashed", f"{files[0].name}: the decoder crashed while reading it") from None
        if "reason" in header:
            raise VideoError(str(header["reason"]), str(header["text"]))
        return header, payload

    def _start(self) -> DecoderChild:
        if self._closed:
            raise ValueError("this Decoder is closed")
        if self._child is None:
            self._child = child = DecoderChild(self._memory_bytes)
            # Ends the child with this object, also if `close` is not called.
            child.ends_with(self)
            try:
                ready = child.wait_until_ready(time.monotonic() + START_SECONDS)
            except (EOFError, TimeoutError) as error:
                self._drop()
                raise DataError(
                    f"The decoder process could not start: {error}. Try `{sys.executable} -c 'import decord'`; decord2 must be installed."
                ) from None
            _warn_of_missing_isolation(tuple(ready.get("not_isolated", ())))
        return self._child

    def _drop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()


def _info(header: Mapping[str, Any]) -> VideoInfo:
    return VideoInfo(
        frames=int(header["frames"]),
        seconds=float(header["seconds"]),
        fps=float(header["fps"]),
        width=int(header["width"]),
        height=int(header["height"]),
        decoder=str(header["decoder"]),
        file_frames=int(header.get("file_frames", 0)),
        file_seconds=float(header.get("file_seconds", 0)),
        seconds_before=float(header["seconds_before"]),
        brightness=float(header["brightness"]),
        contrast=float(header["contrast"]),
        change=None if header["change"] is None else float(header["change"]),
        look=_checked_look(header["look"]),
    )


def _checked_look(look: Any) -> str:
    """Returns the hash that a decoder process sent, which may send anything."""
    if not isinstance(look, str) or not LOOK.fullmatch(look):
        raise VideoError("decoder_crashed", f"the decoder sent an inconsistent reply: {look!r:.100}")
    return look


def _sampling(settings: FrameSettings) -> dict[str, Any]:
    sampling = settings.sampling.model_dump(include={"sampling", "frames", "fps", "min_pixels", "max_pixels"})
    return {"decoder": settings.sampling.decoder, "settings": sampling, "vision": asdict(settings.vision)}


def _frames(header: Mapping[str, Any], payload: np.ndarray, files: Sequence[Path], settings: FrameSettings) -> Frames:
    row_width = settings.vision.row_width
    steps, down, across = (int(size) for size in header["grid_thw"])
    if payload.size != steps * down * across * row_width or min(steps, down, across) < 1:
        raise VideoError("decoder_crashed", f"{files[0].name}: the decoder sent an inconsistent reply: {header}")
    rows, seconds = payload.reshape(-1, row_width), float(header["seconds_per_grid"])
    return Frames.of(rows, (steps, down, across), seconds, settings.vision, str(header["decoder"]))


@cache
def _warn_of_missing_isolation(missing: tuple[str, ...]) -> None:
    """Warns once."""
    for text in missing:
        log.warning("this system cannot keep decoder processes from %s; a video that exploits a fault of a decoder could", text)


def machine_memory_bytes() -> int:
    """Returns the physical memory of this machine, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_workers() -> int:
    """Returns the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(
    jobs: Sequence[J], work: Callable[[Decoder, J], R], limits: Limits, workers: int | None = None
) -> Iterator[tuple[J, R | VideoError]]:
    """Calls `work` for each job in `workers` threads with one Decoder each; by default one thread per processor.

    Yields (job, result) in the order of the jobs. A VideoError is a result; any other error stops all work. At most LOOK_AHEAD jobs per
    worker are ahead of the next result, so memory stays bounded. Close the iterator (or exhaust it) to end the children.
    """
    workers = max(1, min(workers or available_workers(), len(jobs)))
    local = threading.local()
    decoders: list[Decoder] = []

    def run(job: J) -> R | VideoError:
        if not hasattr(local, "decoder"):
            local.decoder = Decoder(limits, workers)
            decoders.append(local.decoder)
        try:
            return work(local.decoder, job)
        except VideoError as error:
            return error

    waiting: deque[tuple[J, Future[R | VideoError]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decoder")
    try:
        for job in jobs:
            waiting.append((job, pool.submit(run, job)))
            if len(waiting) >= workers * LOOK_AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for decoder in decoders:
            decoder.close()
        pool.shutdown(wait=True)
