"""Validation and preprocessing of many videos: time after a small change, and memory by the number of rows.

`add-videos`: 20,000 clips are validated and prepared. Then one per cent of them get other bytes, and the two commands run again: the
seconds are ours. Theirs are those of the same commands without what is known of the clips, `work/`. The clips are those of
`make bench CLIPS=folder`, or the sample in `data/`, repeated, each copy with other bytes. `add-longer-videos` repeats a clip of the size
and length that MSR-VTT's have: 320 × 240, 15 s. It takes half an hour and 10 GB.

`memory-rows`: the videos are files of 16 bytes, which the caches list as decoded, because only the tables are measured.
"""

import json
import multiprocessing
import os
import resource
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.decoding import clip_files, make_video
from benchmarks.side_by_side import ROOT, Benchmark, Figures

VIDEOS, CHANGED = 20_000, 200
FEW, MANY, PAIRS_EACH = 20_000, 200_000, 10
KILOBYTES_A_ROW = 1.0
FOLDER = Path(tempfile.gettempdir()) / "reelnest-scale"
COPIED, COPIED_LONGER = FOLDER / f"{VIDEOS}-clips", FOLDER / f"{VIDEOS}-longer-clips"
LONGER = FOLDER / "longer.mp4"


def _name(number: int) -> str:
    return f"videos/{number // 1000:04d}/{number:07d}.mp4"


def _write_records(project: Path, videos: int, pairs_each: int) -> None:
    with (project / "data" / "videos.jsonl").open("w") as file:
        for number in range(videos):
            file.write(json.dumps({"video_id": f"v{number:07d}", "path": _name(number), "title": f"title of clip {number}"}) + "\n")
    with (project / "data" / "pairs.jsonl").open("w") as file:
        for number in range(videos):
            for query in range(pairs_each):
                text = f"query {query} for the clip {number}, a person walks"
                file.write(json.dumps({"query": {"text": text}, "target": {"video": f"v{number:07d}"}}) + "\n")


def _make_project(project: Path, content: Callable[[int], bytes], videos: int, pairs_each: int) -> None:
    shutil.rmtree(project, ignore_errors=True)
    for number in range(videos):
        file = project / "data" / _name(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content(number))
    _write_records(project, videos, pairs_each)
    shutil.copy(ROOT / "params.yaml", project)
    shutil.copytree(ROOT / "configs", project / "configs")


def _longer_clip() -> list[Path]:
    make_video(LONGER, "320x240", 15, 25, 250)
    return [LONGER]


def _copy_of(files: Sequence[Path], number: int) -> bytes:
    """A clip whose bytes occur once, by an empty box at its end."""
    return files[number % len(files)].read_bytes() + (24).to_bytes(4, "big") + b"free" + secrets.token_bytes(16)


def _run_stages(project: Path) -> Figures:
    """Runs both commands: seconds of the processor in all their processes, and the largest memory of one."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for stage in ("validate", "preprocess"):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        command = [sys.executable, "-c", "from reelnest.cli import app; app()", stage]
        subprocess.run(command, cwd=project, env=environment, check=True, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"seconds": seconds, "kilobytes": float(after.ru_maxrss)}


def _make_copies(project: Path, files: Sequence[Path]) -> None:
    if not (project / "prepared").is_dir():
        _make_project(project, lambda number: _copy_of(files, number), VIDEOS, 2)
    _run_stages(project)  # quick, unless the code that decodes has changed since


def _changed(project: Path, files: Sequence[Path]) -> Callable[[], Figures]:
    if not (project / "work").is_dir():
        _run_stages(project)
    for number in range(VIDEOS - CHANGED, VIDEOS):
        (project / "data" / _name(number)).write_bytes(_copy_of(files, number))
    return lambda: _run_stages(project)


def _anew(project: Path) -> Callable[[], Figures]:
    shutil.rmtree(project / "work", ignore_errors=True)
    return lambda: _run_stages(project)


def _addition(project: Path, files: Callable[[], Sequence[Path]], what: str) -> Benchmark:
    return Benchmark(
        f"validate and preprocess {VIDEOS:,} clips of which {CHANGED} are new{what}",
        "the same of clips that are all new",
        1 / 0.03,
        lambda: _changed(project, files()),
        lambda: _anew(project),
        runs=1,
        counts=True,
        setup=lambda: _make_copies(project, files()),
    )


def _make_known(project: Path, videos: int) -> None:
    """Makes a project whose videos are known: their inspections, and frames of one patch."""
    import numpy as np

    from reelnest.backbones.families.qwen2_5_vl import VISION
    from reelnest.settings import load_params
    from reelnest.stages.workspace import Workspace
    from reelnest.store.frame_cache import frames_key, write_batches
    from reelnest.store.frame_store import Member
    from reelnest.video.decoder import VideoInfo
    from reelnest.video.frames import FrameSettings
    from reelnest.video.known_videos import Content, KnownVideos

    _make_project(project, lambda number: b"%016d" % number, videos, PAIRS_EACH)
    workspace, sampling = Workspace(project), load_params(ROOT / "params.yaml").preprocess
    settings, rows = FrameSettings(sampling, VISION), np.zeros((4, VISION.row_width), np.uint8)
    names = [_name(number) for number in range(videos)]
    with KnownVideos(workspace.frames) as known:
        found = known.contents(names, lambda name: [workspace.data / name])
        contents = [content for _, content in found if isinstance(content, Content)]
        for content in contents:
            known.learn(content, sampling.decoder, VideoInfo(50, 2.0, 25.0, 320, 240, "pyav"))
    members = ((Member("", frames_key(content, settings), (1, 2, 2), 1.0, rows.nbytes, "pyav"), rows) for content in contents)
    (workspace.frames / "shards").mkdir()
    for number in range(-(-videos // FEW)):
        with (workspace.frames / "shards" / f"{number}.arrow").open("wb") as file:
            write_batches(file, islice(members, FEW))


def _known_project(videos: int) -> Path:
    from reelnest.code_closure import DECODING, code_digest

    return FOLDER / f"{videos}-known-by-{code_digest(DECODING)[:8]}"


def _make_both() -> None:
    for videos in (FEW, MANY):
        project = _known_project(videos)
        if not (project / "work").is_dir():
            # In a process of its own: the peak memory of this one would count as that of the sides, its children.
            process = multiprocessing.get_context("spawn").Process(target=_make_known, args=(project, videos))
            process.start()
            process.join()
            if process.exitcode != 0:
                raise RuntimeError(f"{project} was not made")


def _memory(videos: int, further_rows: int) -> Callable[[], Callable[[], Any]]:
    """Peak memory with these videos, and what further rows may add."""

    def run() -> Figures:
        kilobytes = _run_stages(_known_project(videos))["kilobytes"]
        return {"kilobytes": kilobytes + KILOBYTES_A_ROW * further_rows}

    return lambda: run


BENCHMARKS = {
    "add-videos": _addition(COPIED, clip_files, ""),
    "add-longer-videos": _addition(COPIED_LONGER, _longer_clip, ", each 320 × 240 and 15 s"),
    "memory-rows": Benchmark(
        f"peak memory of validate and preprocess, {MANY:,} videos and {MANY * PAIRS_EACH:,} pairs",
        f"{FEW:,} videos and {FEW * PAIRS_EACH:,} pairs, and {KILOBYTES_A_ROW:g} kB for each further row",
        1.0,
        lambda: _memory(MANY, 0)(),
        lambda: _memory(FEW, (MANY - FEW) * (1 + PAIRS_EACH))(),
        runs=1,
        unit="kilobytes",
        counts=True,
        setup=_make_both,
    ),
}
