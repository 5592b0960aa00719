"""Decoding and sampling, beside bare decord calls.

Ours is what the stage preprocess does with a file, but for the store: the checks, the confined process, sampling, resizing, patches, and
their way back to the stage. Theirs is `decord.VideoReader` and `get_batch` in a loop, without checks and without resizing.

On one core, the seconds are those of the processor in all processes, so that other load on the machine does not count.

`store-batches` reads the same clips in shuffled batches: ours as training does, from the frame store, theirs with decord, which decodes and
resizes.

Clips are those of `make bench CLIPS=folder`, or the sample in `data/`. The long videos are generated: 60 s of 720p, a key frame each second
or every 8 seconds.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.peers.training import clips
from benchmarks.side_by_side import ROOT, Benchmark, Figures

FRAMES, MAX_PIXELS = 4, 3200
"""Those of `params.yaml`: 56 × 56 pixels. Resizing a clip's frame takes a third of a millisecond, so more frames lower the ratio."""
LONG = Path(tempfile.gettempdir()) / "reelnest-long-videos"
STORED = Path(tempfile.gettempdir()) / "reelnest-stored-clips"
BATCH, EPOCHS = 32, 20
"""One epoch from the store takes less than the resolution of a process's time."""


def clip_files() -> list[Path]:
    """Returns the video files of `clips()`."""
    return [clips() / json.loads(line)["path"] for line in (clips() / "videos.jsonl").read_text().splitlines()]


def _long_videos() -> list[Path]:
    return [LONG / f"key-every-{frames}.mp4" for frames in (30, 250)]


def _make_long_videos() -> None:
    for file in _long_videos():
        make_video(file, "1280x720", 60, 30, int(file.stem.rpartition("-")[2]))


def make_video(file: Path, size: str, seconds: int, rate: int, key_every: int) -> None:
    """Generates a video of a moving test picture with noise, with a key frame every so many frames, unless the file exists."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise SystemExit("this benchmark generates videos with ffmpeg: apt-get install ffmpeg")
    if file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = ["-f", "lavfi", "-i", f"testsrc2=s={size}:d={seconds}:r={rate}", "-vf", "noise=alls=6:allf=t", "-pix_fmt", "yuv420p"]
    keys = ["-g", str(key_every), "-keyint_min", str(key_every), "-sc_threshold", "0"]
    unfinished = file.with_suffix(".part.mp4")
    encoder = ["-c:v", "libx264", "-preset", "veryfast", *keys, "-crf", "26"]
    subprocess.run([program, "-v", "error", "-y", *picture, *encoder, str(unfinished)], check=True)
    unfinished.rename(file)


def _use_cores(count: int) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def _processor_seconds(process: int) -> float:
    """Of all its threads, so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _settings() -> tuple[Any, Any]:
    from reelnest.backbones.families.qwen2_5_vl import VISION
    from reelnest.settings import Preprocess, Validate
    from reelnest.video.decoder import Limits
    from reelnest.video.frames import FrameSettings

    return FrameSettings(Preprocess(frames=FRAMES, max_pixels=MAX_PIXELS), VISION), Limits.of(Validate())


def _ours(files: Callable[[], Sequence[Path]]) -> Callable[[], Figures]:
    from reelnest.video.decoder import Decoder

    def run() -> Figures:
        _use_cores(1)
        settings, limits = _settings()
        jobs = files()
        with Decoder(limits) as decoder:
            decoder.frames([jobs[0]], settings)
            processes = [os.getpid(), decoder.pid or 0]
            before = sum(map(_processor_seconds, processes))
            for file in jobs:
                _ = decoder.frames([file], settings).rows
            return {"seconds": sum(map(_processor_seconds, processes)) - before}

    return run


def _in_parallel(files: Callable[[], Sequence[Path]], cores: int) -> Callable[[], Figures]:
    from reelnest.video.decoder import in_parallel

    def run() -> Figures:
        _use_cores(cores)
        settings, limits = _settings()
        jobs = files()
        results = in_parallel([jobs[0]] * cores + [*jobs], lambda decoder, file: decoder.frames([file], settings).rows.size, limits, cores)
        for _ in range(cores):  # the processes start
            next(results)
        started = time.perf_counter()
        for _file, size in results:
            if not isinstance(size, int):
                raise size
        return {"seconds": time.perf_counter() - started}

    return run


def _theirs(files: Callable[[], Sequence[Path]]) -> Callable[[], Figures]:
    import decord
    import numpy as np

    decord.logging.set_level(decord.logging.QUIET)

    def read(file: Path) -> None:
        reader = decord.VideoReader(str(file), ctx=decord.cpu(0), num_threads=1)
        reader.get_batch(np.linspace(0, len(reader) - 1, FRAMES).round().astype(int).tolist()).asnumpy()

    def run() -> Figures:
        _use_cores(1)
        jobs = files()
        read(jobs[0])
        before = _processor_seconds(os.getpid())
        for file in jobs:
            read(file)
        return {"seconds": _processor_seconds(os.getpid()) - before}

    return run


def _make_store() -> None:
    shutil.rmtree(STORED, ignore_errors=True)
    shutil.copytree(clips(), STORED / "data")
    shutil.copy(ROOT / "params.yaml", STORED)
    shutil.copytree(ROOT / "configs", STORED / "configs")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for stage in ("validate", "preprocess"):
        command = [sys.executable, "-c", "from reelnest.cli import app; app()", stage]
        subprocess.run(command, cwd=STORED, env=environment, check=True, stderr=subprocess.DEVNULL)


def _shuffled_batches(videos: int, epochs: int) -> Iterator[list[int]]:
    random = Random(0)  # noqa: S311 - not for secrets
    for _ in range(epochs):
        order = random.sample(range(videos), videos)
        yield from (order[start : start + BATCH] for start in range(0, videos, BATCH))


def _epoch_seconds(read: Callable[[list[int]], Any], videos: int, epochs: int) -> Figures:
    _use_cores(1)
    read([0])
    before = _processor_seconds(os.getpid())
    for batch in _shuffled_batches(videos, epochs):
        read(batch)
    return {"seconds": (_processor_seconds(os.getpid()) - before) / epochs}


def _from_store() -> Figures:
    import numpy as np

    from reelnest.store.prepared import Prepared

    store = Prepared.open(STORED / "prepared").store
    return _epoch_seconds(lambda batch: np.concatenate([store.at(index).rows for index in batch]), len(store), EPOCHS)


def _from_files() -> Figures:
    import decord
    import numpy as np

    decord.logging.set_level(decord.logging.QUIET)
    files = clip_files()
    side = math.isqrt(MAX_PIXELS)

    def read(batch: list[int]) -> Any:
        frames = []
        for index in batch:
            reader = decord.VideoReader(str(files[index]), ctx=decord.cpu(0), width=side, height=side, num_threads=1)
            frames.append(reader.get_batch(np.linspace(0, len(reader) - 1, FRAMES).round().astype(int).tolist()).asnumpy())
        return np.concatenate(frames)

    return _epoch_seconds(read, len(files), 1)


def _benchmark(what: str, files: Callable[[], Sequence[Path]], runs: int, setup: Callable[[], Any] | None = None) -> Benchmark:
    return Benchmark(
        f"decoding {what}, {FRAMES} frames each, one core: checks, confined process, sampling, resizing, patches",
        "decord.VideoReader and get_batch in a loop, one core, without checks and resizing",
        0.9,
        lambda: _ours(files),
        lambda: _theirs(files),
        runs=runs,
        counts=True,
        setup=setup,
    )


BENCHMARKS = {
    "decode-clips": _benchmark("clips", clip_files, 5),
    "decode-long": _benchmark("60 s of 720p, twice", _long_videos, 3, _make_long_videos),
    "decode-two-cores": Benchmark(
        "the same clips on two cores",
        "ours on one core",
        1.8,
        lambda: _in_parallel(clip_files, 2),
        lambda: _in_parallel(clip_files, 1),
        runs=5,
        counts=True,
    ),
    "store-batches": Benchmark(
        f"an epoch of shuffled batches of {BATCH} clips, {FRAMES} frames each, from the frame store, one core",
        "decord.VideoReader at this size and get_batch for each clip of a batch, one core",
        20.0,
        lambda: _from_store,
        lambda: _from_files,
        runs=3,
        counts=True,
        setup=_make_store,
    ),
}
