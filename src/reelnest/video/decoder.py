"""Decoding that cannot take this process with it: a child decodes, and is replaced when it hangs or crashes.

The child is `decoder_process.py`. Between the two go JSON lines and raw bytes, no pickle: what comes back from a process that reads
strangers' files is data, checked here, and never code.
"""

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import numpy as np

from reelnest.errors import DataError, VideoError
from reelnest.settings import Validate
from reelnest.video.frames import Frames, FrameSettings

log = logging.getLogger(__name__)

START_SECONDS = 120.0
"""For the child's imports, which a cold network disk can make slow. A video's own time starts after them."""
LONGEST_HEADER = 1 << 20
LOOK_AHEAD = 4
"""Results that may wait for an earlier one, for each worker."""

J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True)
class Limits:
    """What a video may cost. Checked before anything large is read."""

    megabytes: float
    frames: int
    seconds: float
    timeout_seconds: float

    @classmethod
    def of(cls, settings: Validate) -> Self:
        """The limits that `params.yaml` sets under `validate`."""
        return cls(
            megabytes=settings.max_video_megabytes,
            frames=settings.max_video_frames,
            seconds=settings.max_video_seconds,
            timeout_seconds=settings.decode_timeout_seconds,
        )


@dataclass(frozen=True)
class VideoInfo:
    """What a video is, seen by decoding some of it. A list of images counts as two frames a second."""

    frames: int
    seconds: float
    fps: float
    width: int
    height: int


class Decoder:
    """Decodes one video at a time in a child process, which it starts when first asked and ends when closed.

    Every method takes one video as a list of files: a video file, or the images of a frame folder in order. Bad videos raise VideoError
    with one of these reasons: missing, empty, not_a_video, truncated, damaged, bad_shape, no_frames, too_many_frames, too_long,
    too_large, timeout, decoder_crashed. May be shared by threads, which then wait for each other.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._child: _Child | None = None
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

    def inspect(self, files: Sequence[Path]) -> VideoInfo:
        """Opens the video and decodes a few frames spread over it, the first and the last among them."""
        header, _ = self._ask({"do": "inspect"}, files)
        return VideoInfo(int(header["frames"]), float(header["seconds"]), float(header["fps"]), int(header["width"]), int(header["height"]))

    def frames(self, files: Sequence[Path], settings: FrameSettings) -> Frames:
        """Samples, resizes and cuts the video as `settings` say."""
        sampling = settings.sampling.model_dump(include={"sampling", "frames", "fps", "min_pixels", "max_pixels"})
        row_width = settings.vision.row_width
        header, payload = self._ask({"do": "frames", "settings": sampling, "vision": asdict(settings.vision)}, files)
        steps, down, across = (int(size) for size in header["grid_thw"])
        if payload.size != steps * down * across * row_width or min(steps, down, across) < 1:
            raise VideoError("decoder_crashed", f"{files[0].name}: the decoder's answer does not fit together: {header}")
        rows = payload.reshape(-1, row_width)
        return Frames.of(rows, (steps, down, across), float(header["seconds_per_grid"]), settings.vision)

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

    def _start(self) -> "_Child":
        if self._closed:
            raise ValueError("this Decoder is closed")
        if self._child is None:
            self._child = child = _Child()
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


class _Child:
    """A running decoder process and its three pipes."""

    def __init__(self) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reelnest.video.decoder_process", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            cwd=Path(__file__).parents[2],  # where `reelnest` is found, also where it is not installed but came with a served model
            process_group=0,  # so that Ctrl-C reaches the parent alone, which then ends its children in order
        )
        assert self.process.stdin is not None  # noqa: S101 - told to the type checker
        assert self.process.stdout is not None  # noqa: S101
        self._to, self._from = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def ends_with(self, owner: object) -> None:
        self._finalizer = weakref.finalize(owner, _end, self.process, self._errors)

    def kill(self) -> None:
        _kill(self.process)

    def end(self) -> None:
        if self._finalizer is not None:
            self._finalizer()

    def exchange(self, request: dict[str, Any] | None, deadline: float) -> tuple[dict[str, Any], np.ndarray]:
        """Sends a request (none: waits for the child's greeting), returns the answer's header and bytes. TimeoutError, EOFError."""
        line = b"" if request is None else json.dumps(request).encode("ascii") + b"\n"
        while line:
            _wait(self._to, select.POLLOUT, deadline)
            try:
                line = line[os.write(self._to, line) :]
            except BrokenPipeError:
                raise EOFError(self._last_words()) from None
        received = bytearray()
        while b"\n" not in received:
            received += self._read(1 << 16, deadline)
            if len(received) > LONGEST_HEADER and b"\n" not in received[:LONGEST_HEADER]:
                raise EOFError("an answer that is none")
        head, _, start = received.partition(b"\n")
        try:
            header = json.loads(head)
            payload = np.empty(int(header.get("bytes", 0)), dtype=np.uint8)
        except (ValueError, AttributeError, TypeError, MemoryError) as error:
            raise EOFError(f"an answer that is none: {error}") from None
        payload[: len(start)] = np.frombuffer(start, dtype=np.uint8)
        filled = len(start)
        view = payload.data
        while filled < len(payload):
            _wait(self._from, select.POLLIN, deadline)
            count = os.readv(self._from, [view[filled:]])
            if not count:
                raise EOFError(self._last_words())
            filled += count
        return header, payload

    def _read(self, most: int, deadline: float) -> bytes:
        _wait(self._from, select.POLLIN, deadline)
        found = os.read(self._from, most)
        if not found:
            raise EOFError(self._last_words())
        return found

    def _last_words(self) -> str:
        """Exit status and the last line of stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        code = self.process.returncode
        status = "it closed its answers" if code is None else f"signal {-code}" if code < 0 else f"exit status {code}"
        try:
            size = self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, size - 2000))
            lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        except ValueError:  # closed meanwhile
            lines = []
        return f"{status}: {lines[-1].strip()}" if lines else status


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError("no answer in time")


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        # The whole group. It exists from the start on: the child is made with it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    _kill(process)
    # A process that the kernel holds (a dead network disk) cannot be killed, and must not hold us too.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    for pipe in (process.stdin, process.stdout, errors):
        if pipe is not None:
            pipe.close()


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
            local.decoder = Decoder(limits)
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
