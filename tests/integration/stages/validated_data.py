"""Small data for validation, and what validation writes of it."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np

from reelnest.settings import Params, Validate
from reelnest.stages.workspace import Workspace


def make_video(path: Path, frames: int = 24, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"threads": "1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            picture = chance.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_lines(path: Path, *records: dict[str, Any] | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records), encoding="utf-8")


def report(workspace: Workspace) -> Any:
    return json.loads((workspace.reports / "validation.json").read_text(encoding="utf-8"))


def quarantine(workspace: Workspace) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workspace.reports / "quarantine.jsonl").read_text(encoding="utf-8").split("\n") if line]


def allowing(fraction: float, **settings: Any) -> Params:
    return Params(validation=Validate(max_quarantined_fraction=fraction, **settings))


def failed(workspace: Workspace) -> set[tuple[str, str]]:
    return {(found["suite"], found["description"]) for found in report(workspace)["expectations"] if not found["success"]}
