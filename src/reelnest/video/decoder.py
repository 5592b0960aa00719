"""Decoding that cannot take this process with it: a child decodes, and is replaced when it hangs or crashes.

The child is `decoder_process.py`; `child.py` starts it and talks to it.
"""

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from reelnest.errors import DataError, VideoError
from reelnest.video.child import DecoderChild
from reelnest.video.decoders import AUTO
from reelnest.video.frames import Frames, FrameSettings
from reelnest.video.limits import Limits

__all__ = ["Decoder", "Limits", "VideoInfo", "available_workers", "in_parallel"]

log = logging.getLogger(__name__)

START_SECONDS = 120.0
"""For the child's imports, which a cold network disk can make slow. A video's own time starts after them."""
MEMORY_BYTES = 8 * 1024**3
"""Address space of all decoder processes together, or half of the machine's memory. A video that needs more ends its own process."""
LEAST_MEMORY_BYTES = 3 * 1024**3 // 2
"""What one gets in any case: 0.8 GB are its libraries'."""
LOOK_AHEAD = 4
"""Results that may wait for an earlier one, for each worker."""

J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True)
class VideoInfo:
    """What a video is, seen by decoding some of it. A list of images counts as two frames a second."""

    frames: int
    seconds: float
    fps: float
    width: int
    height: int
    decoder: str = ""
    """Name of the decoder that read it."""


class Decoder:
    """Decodes one video at a time in a child process, which it starts when first asked and ends when closed.

    Every method takes one video as a list of files: a video file, or the images of a frame folder in order. Bad videos raise VideoError
    with one of these reasons: missing, unreadable, not_a_file, empty, not_a_video, truncated, damaged, bad_shape, bad_times, no_frames,
    too_many_frames, too_long, too_large, no_decoder, timeout, decoder_crashed. May be shared by threads, which then wait for each other.

    `workers` decode on this machine at once: their children share the memory that is for decoding.
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
        """The child's process id; None while there is none."""
        child = self._child
        return child.process.pid if child is not None else None

    def close(self) -> None:
        """Ends the child. A request that another thread has under way fails."""
        self._closed = True
        child = self._child
        if child is not None:
            child.kill()  # before waiting for the lock: its holder waits for the child
        with self._lock:
            self._drop()

    def inspect(self, files: Sequence[Path], decoder: str = AUTO) -> VideoInfo:
        """Opens the video and decodes a few frames spread over it, the first and the last among them."""
        header, _ = self._ask({"do": "inspect", "decoder": decoder}, files)
        return VideoInfo(
            frames=int(header["frames"]),
            seconds=float(header["seconds"]),
            fps=float(header["fps"]),
            width=int(header["width"]),
            height=int(header["height"]),
            decoder=str(header["decoder"]),
        )

    def frames(self, files: Sequence[Path], settings: FrameSettings) -> Frames:
        """Samples, resizes and cuts the video as `settings` say."""
        sampling = settings.sampling.model_dump(include={"sampling", "frames", "fps", "min_pixels", "max_pixels"})
        request = {"do": "frames", "decoder": settings.sampling.decoder, "settings": sampling, "vision": asdict(settings.vision)}
        row_width = settings.vision.row_width
        header, payload = self._ask(request, files)
        steps, down, across = (int(size) for size in header["grid_thw"])
        if payload.size != steps * down * across * row_width or min(steps, down, across) < 1:
            raise VideoError("decoder_crashed", f"{files[0].name}: the decoder's answer does not fit together: {header}")
        rows, seconds = payload.reshape(-1, row_width), float(header["seconds_per_grid"])
        return Frames.of(rows, (steps, down, across), seconds, settings.vision, str(header["decoder"]))

    def _ask(self, request: dict[str, Any], files: Sequence[Path]) -> tuple[dict[str, Any], np.ndarray]:
        if not files:
            raise VideoError("no_frames", "a video without files")
        # The child's working folder may differ by the time it is asked.
        request = {**request, "files": [os.path.abspath(file) for file in files], "limits": asdict(self._limits)}  # noqa: PTH100
        with self._lock:
            while True:
                is_new = self._child is None
                child = self._start()
                try:
                    header, payload = child.exchange(request, time.monotonic() + self._limits.timeout_seconds)
                    break
                except TimeoutError:
                    self._drop()
                    raise VideoError(
                        "timeout", f"{files[0].name}: not decoded within {self._limits.timeout_seconds:g} s; the decoder was stopped"
                    ) from None
                except EOFError as error:
                    self._drop()
                    # A child that was idle may be gone for reasons of its own (the thread that started it has ended, the video before
                    # damaged its memory): only one that was started for this video speaks against the video.
                    if is_new or self._closed:
                        # What it said may hold times and places, which have no business in a report: a report is the same on every machine.
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
            # For those who forget to close: the child must not outlive this object.
            child.ends_with(self)
            try:
                child.exchange(None, time.monotonic() + START_SECONDS)
            except (EOFError, TimeoutError) as error:
                self._drop()
                raise DataError(
                    f"The decoder process could not start: {error}. Try `{sys.executable} -c 'import decord'`; decord2 must be installed."
                ) from None
        return self._child

    def _drop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()


def machine_memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_workers() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(
    jobs: Sequence[J], work: Callable[[Decoder, J], R], limits: Limits, workers: int | None = None
) -> Iterator[tuple[J, R | VideoError]]:
    """Calls `work` for each job in threads that have a Decoder of their own, one a processor where `workers` does not say.

    Gives (job, result) in the order of the jobs; a VideoError is a result, any other error ends it all. Only so many results are
    computed ahead of the one that is waited for, so memory stays bounded. Close the iterator (or exhaust it) to end the children.
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
