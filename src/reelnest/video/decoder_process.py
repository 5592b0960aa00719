"""The decoder process: `python -m reelnest.video.decoder_process PARENT_PID MEMORY_BYTES`. Only `child.py` starts it.

The files are untrusted and decoders are large C libraries. If one hangs, crashes or runs out of memory here, it costs one video.

A request is a line of JSON through the socket on stdin. A reply is a line of JSON on stdout, followed by the number of raw bytes in its
`bytes`. The process cannot open files: the descriptor of the first comes with the request, and the reply `{"open": 2}` asks for the third.
Imports are few, because a new process starts after each crash or timeout.
"""

import json
import os
import queue
import socket
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reelnest.errors import VideoError
from reelnest.video import sampling
from reelnest.video.confinement import allow_processor_seconds, isolate, limit_resources
from reelnest.video.decoders import IMAGES, OpenedVideo, Unsuitable, VideoDecoder, all_decoders, chosen_decoders
from reelnest.video.files.appearance import Cells, appearance, cells_of
from reelnest.video.files.presentation import check_has_times
from reelnest.video.files.segment import SegmentVideo, cut, seconds_before
from reelnest.video.files.source import Source
from reelnest.video.limits import Limits
from reelnest.video.patches import check_aspect_ratio, smart_resize, to_patches
from reelnest.video.sampling import frame_indices
from reelnest.video.vision_spec import VisionSpec

INSPECTED_FRAMES = 4
"""Chosen as `preprocess.sampling: uniform` chooses four, so that inspecting and sampling decode the same frames."""

Pixels = NDArray[np.uint8]
DecoderReply = tuple[dict[str, Any], bytes | memoryview]
Messages = queue.SimpleQueue[tuple[dict[str, Any], list[int]]]
"""Messages of the parent, each with the descriptors that came with it."""

MESSAGE_BYTES = 1 << 16


def main() -> None:
    """Serves requests until the parent closes the socket."""
    limit_resources(int(sys.argv[1]), int(sys.argv[2]))
    # Libraries print to stdout, which would corrupt the replies: so replies get a separate descriptor, and stdout goes to stderr.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = socket.socket(fileno=os.dup(0))  # decord opens descriptor 0
    warnings.simplefilter("ignore")  # Pillow warns about unusual image files; real problems raise
    all_decoders()  # imports them now, outside of any video's time limit
    Image.init()
    nothing = os.open(os.devnull, os.O_RDONLY)
    not_isolated = isolate()
    messages: Messages = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, messages), daemon=True).start()

    def open_file(number: int) -> int:
        _send(replies, {"open": number})
        reply, descriptors = messages.get()
        if "reason" in reply:
            raise VideoError(reply["reason"], reply["text"])
        return descriptors[0]

    _send(replies, {"ready": True, "not_isolated": not_isolated})
    opened: _OpenFile | None = None
    while True:
        request, (first, *_) = messages.get()
        if opened is not None and opened.serves(request, first):
            os.close(first)
            file = opened
        else:
            if opened is not None:
                opened.close(nothing)
            file = _OpenFile(request, first, open_file)
        opened = file if request["segment"] is not None else None
        try:
            header, payload = _serve(request, file)
        except VideoError as error:
            header, payload, opened = {"reason": error.reason, "text": str(error)}, b"", None
        except MemoryError:
            text = f"{request['names'][0]}: decoding it takes too much memory"
            header, payload, opened = {"reason": "too_large", "text": text}, b"", None
        if opened is None:
            file.close(nothing)
        _send(replies, {**header, "bytes": len(payload)}, payload)


def _listen(requests: socket.socket, messages: Messages) -> None:
    """Reads messages in a separate thread, so that the process ends with its parent even in the middle of a video."""
    received, descriptors = b"", []
    while True:
        data, new, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, 1)
        if not data:
            os._exit(0)
        descriptors += new
        *lines, received = (received + data).split(b"\n")
        for line in lines:  # the parent sends the next message after our reply
            messages.put((json.loads(line), descriptors))
            descriptors = []


def _send(replies: BinaryIO, header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    replies.write(json.dumps(header).encode("ascii") + b"\n")
    replies.write(payload)
    replies.flush()


class _OpenFile:
    """An opened file. It stays open for requests of its segments: reading its packets takes longer than decoding a segment."""

    def __init__(self, request: dict[str, Any], first: int, open_file: Callable[[int], int]) -> None:
        self.source = Source(request["names"], first, open_file, Limits(**request["limits"]))
        self._identity = _identity(request, first)
        self._videos: dict[VideoDecoder, OpenedVideo | str] = {}
        """By decoder, the opened video, or why it is unsuitable."""

    def serves(self, request: dict[str, Any], first: int) -> bool:
        """Returns whether the request is for this file, unchanged, with the same settings. `first` is its descriptor in the request."""
        return self._identity == _identity(request, first)

    def video(self, decoder: VideoDecoder) -> OpenedVideo:
        """Returns the video that the decoder opens. Raises Unsuitable, also if the decoder was rejected before, or VideoError."""
        if decoder not in self._videos:
            try:
                self._videos[decoder] = decoder.open(self.source)
            except Unsuitable as problem:
                self.reject(decoder, problem)
        video = self._videos[decoder]
        if isinstance(video, str):
            raise Unsuitable(video)
        return video

    def reject(self, decoder: VideoDecoder, problem: Unsuitable) -> None:
        """Never uses this decoder again: another one has moved the offset that its descriptor shares."""
        self._videos[decoder] = str(problem)

    def close(self, nothing: int) -> None:
        """Closes the file, also for decord, which reads descriptor 0. That becomes `nothing`."""
        self.source.close()
        os.dup2(nothing, 0)


def _identity(request: dict[str, Any], descriptor: int) -> tuple[object, ...]:
    status = os.fstat(descriptor)
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return (*state, request["names"], request["decoder"], request["limits"])


def _serve(request: dict[str, Any], file: _OpenFile) -> DecoderReply:
    source, problems = file.source, []
    allow_processor_seconds(source.limits.timeout_seconds)
    for decoder in chosen_decoders(request["decoder"]):
        try:
            video = file.video(decoder)
            zero = None if decoder.name == IMAGES else source.track.zero_seconds
            before = seconds_before(video, zero)
            if request["segment"] is not None:
                start, end = request["segment"]
                if decoder.name != IMAGES:
                    check_has_times(source.track, source.name)
                video = cut(video, start, end, zero, source.name)
            header, payload = _decode(video, request)
            if isinstance(video, SegmentVideo):
                header |= {"file_frames": len(video.video.starts), "file_seconds": video.video.seconds}
            header["seconds_before"] = before
        except Unsuitable as problem:
            file.reject(decoder, problem)
            problems.append(str(problem))
        except ValueError as error:  # from check_aspect_ratio
            raise VideoError("bad_shape", f"{source.name}: {error}; crop it") from error
        else:
            return {**header, "decoder": decoder.name}, payload
    advice = f"set preprocess.decoder to auto, or re-encode the file: ffmpeg -i {source.name} out.mp4"
    raise VideoError("no_decoder", f"{source.name}: no selected decoder can read it correctly: {problems[-1]}; {advice}")


def _decode(video: OpenedVideo, request: dict[str, Any]) -> DecoderReply:
    """Decodes the frames for inspection, those that are sampled, or both in one pass.

    Both raise VideoError where either alone could use another decoder: the caller then asks for each alone.
    """
    total = len(video.starts)
    inspected = frame_indices(video.starts, min(INSPECTED_FRAMES, total)).tolist() if request["inspects"] else []
    sample = _Sample(video, request) if "settings" in request else None
    chosen = sorted({*inspected, *(sample.repeats if sample is not None else ())})
    header: dict[str, Any] = {}
    looked_at: list[Cells] = []
    try:
        for index, image in zip(chosen, video.frames(chosen), strict=True):  # one at a time: together they could fill the memory
            if index in inspected:
                check_aspect_ratio(image.height, image.width)
                header |= {"width": image.width, "height": image.height}
                looked_at.append(cells_of(image))
            if sample is not None:
                sample.add(index, image)
    except Unsuitable as problem:
        if inspected and sample is not None:
            raise VideoError("no_decoder", str(problem)) from problem
        raise
    if inspected:
        header |= {"frames": total, "seconds": video.seconds, "fps": total / video.seconds, **appearance(looked_at)}
    if sample is None:
        return header, b""
    rows, grid = to_patches(np.stack(sample.resized), sample.vision)
    header |= {"grid_thw": grid.tolist(), "seconds_per_grid": sample.seconds_per_grid}
    return header, np.ascontiguousarray(rows).data.cast("B")


class _Sample:
    """The sampled frames of a video, resized."""

    def __init__(self, video: OpenedVideo, request: dict[str, Any]) -> None:
        self._settings, self.vision = request["settings"], VisionSpec.of(request["vision"])
        span = self.vision.temporal_patch_size
        clip = sampling.Clip(video.starts, video.seconds, span)
        indices = sampling.FRAME_SAMPLERS[self._settings["sampling"]].choose(clip, self._settings["frames"], self._settings["fps"])
        self.repeats = Counter(indices.tolist())
        self.seconds_per_grid = sampling.seconds_per_grid(len(indices), video.seconds, span)
        self.resized: list[Pixels] = []
        self._size = (0, 0)

    def add(self, index: int, image: Image.Image) -> None:
        """Adds a frame if it was sampled. The first one decides the size of all."""
        if index not in self.repeats:
            return
        if not self.resized:
            least, most = self._settings["min_pixels"], self._settings["max_pixels"]
            height, width = smart_resize(image.height, image.width, least, most, self.vision.factor)
            self._size = (width, height)
        self.resized += [np.asarray(image.resize(self._size, Image.Resampling.BICUBIC))] * self.repeats[index]


if __name__ == "__main__":
    main()
