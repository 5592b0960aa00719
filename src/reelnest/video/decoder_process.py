"""The process that decodes: `python -m reelnest.video.decoder_process PARENT_PID MEMORY_BYTES`. Only `child.py` starts it and talks to it.

Nobody vouches for the files, and a decoder is a million lines of C: here it may hang, crash or eat memory, and costs one video.

A request is a line of JSON on stdin, an answer a line of JSON on stdout, followed by as many raw bytes as it says. The imports are kept
few, since a process is started anew after each crash or time-out.
"""

import json
import os
import queue
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reelnest.errors import VideoError
from reelnest.video import sampling
from reelnest.video.confinement import allow_processor_seconds, confine
from reelnest.video.decoders import OpenedVideo, Unsuitable, all_decoders, chosen_decoders
from reelnest.video.files.source import Source
from reelnest.video.limits import Limits
from reelnest.video.patches import check_aspect_ratio, smart_resize, to_patches
from reelnest.video.vision_spec import VisionSpec

INSPECTED_FRAMES = 4

Pixels = NDArray[np.uint8]
Answer = tuple[dict[str, Any], bytes | memoryview]


def main() -> None:
    """Answers requests until stdin ends."""
    confine(int(sys.argv[1]), int(sys.argv[2]))
    # A library that prints must not garble the answers: they get a descriptor of their own, and stdout becomes stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")  # Pillow's remarks on odd image files; what matters is raised
    all_decoders()  # their imports are no video's time
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    _answer(answers, {"ready": True})
    while True:
        request = json.loads(requests.get())
        try:
            header, payload = _serve(request)
        except VideoError as error:
            header, payload = {"reason": error.reason, "text": str(error)}, b""
        except MemoryError:
            header, payload = {"reason": "too_large", "text": f"{Path(request['files'][0]).name}: decoding it takes too much memory"}, b""
        _answer(answers, {**header, "bytes": len(payload)}, payload)


def _listen(requests: "queue.SimpleQueue[bytes]") -> None:
    """Reads stdin in a thread of its own, so that a parent that is gone is noticed in the middle of a video too."""
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)


def _answer(answers: BinaryIO, header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    answers.write(json.dumps(header).encode("ascii") + b"\n")
    answers.write(payload)
    answers.flush()


def _serve(request: dict[str, Any]) -> Answer:
    limits = Limits(**request["limits"])
    allow_processor_seconds(limits.timeout_seconds)
    objections: list[str] = []
    with Source([Path(name) for name in request["files"]], limits) as source:
        for decoder in chosen_decoders(request["decoder"]):
            try:
                video = decoder.open(source)
                header, payload = _inspect(video) if request["do"] == "inspect" else _frames(video, request)
            except Unsuitable as objection:
                objections.append(str(objection))
            except ValueError as error:  # of the aspect ratio
                raise VideoError("bad_shape", f"{source.name}: {error}") from error
            else:
                return {**header, "decoder": decoder.name}, payload
        advice = f"set preprocess.decoder to auto, or write the file anew: ffmpeg -i {source.name} out.mp4"
        raise VideoError("no_decoder", f"{source.name}: no decoder gives the right frames: {objections[-1]}; {advice}")


def _inspect(video: OpenedVideo) -> Answer:
    total = len(video.starts)
    for image in video.frames(np.unique(np.linspace(0, total - 1, INSPECTED_FRAMES).astype(int)).tolist()):
        check_aspect_ratio(image.height, image.width)
        width, height = image.size
    return {"frames": total, "seconds": video.seconds, "fps": total / video.seconds, "width": width, "height": height}, b""


def _frames(video: OpenedVideo, request: dict[str, Any]) -> Answer:
    settings, vision = request["settings"], VisionSpec.of(request["vision"])
    span = vision.temporal_patch_size
    clip = sampling.Clip(video.starts, video.seconds, span)
    indices = sampling.FRAME_SAMPLERS[settings["sampling"]].choose(clip, settings["frames"], settings["fps"])
    wanted, repeats = np.unique(indices, return_counts=True)
    kept: list[Pixels] = []
    height = width = 0
    # One at a time: a batch of large frames would hold them all before any is made small.
    for image, times in zip(video.frames(wanted.tolist()), repeats.tolist(), strict=True):
        if not kept:
            height, width = smart_resize(image.height, image.width, settings["min_pixels"], settings["max_pixels"], vision.factor)
        kept += [np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))] * times
    rows, grid = to_patches(np.stack(kept), vision)
    header = {"grid_thw": grid.tolist(), "seconds_per_grid": sampling.seconds_per_grid(len(indices), video.seconds, span)}
    return header, np.ascontiguousarray(rows).data.cast("B")


if __name__ == "__main__":
    main()
