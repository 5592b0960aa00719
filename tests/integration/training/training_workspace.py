"""A small checkout to train in. Its `prepared/` needs no video files: it is coloured noise, with words that name the colour."""

import csv
import json
from pathlib import Path

import numpy as np
import yaml

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.records.formats import Pair, Side
from reelnest.settings import load_params
from reelnest.stages import train
from reelnest.stages.workspace import Workspace
from reelnest.store.frame_cache import FrameCache
from reelnest.store.frame_store_writing import write_store
from reelnest.store.prepared import STORE_FOLDER, write_tables
from reelnest.video.frames import Frames
from reelnest.video.patches import to_patches

ROOT = Path(__file__).parents[3]
COLOURS = ("red", "green", "blue", "yellow", "purple", "white", "grey", "orange")
TINY = {"hidden_size": 32, "layers": 2, "heads": 2, "vision_hidden_size": 32, "vision_layers": 2, "vision_heads": 2, "vocabulary": 400}


def write_prepared(folder: Path, scratch: Path, videos: int = 28) -> None:
    """Videos of two sizes with two queries each; every fourth pair is text to text; the last quarter of the videos is for validation."""
    random = np.random.default_rng(7)
    cache = FrameCache(scratch)
    pairs, splits = [], []
    for number in range(videos):
        height = 56 if number % 3 else 28
        frames = random.integers(0, 255, (2, height, 56, 3), dtype=np.uint8) // 4 + np.uint8(20 * (number % 8))
        cache.add(f"key{number}", Frames.of(*to_patches(frames, VISION), seconds_per_grid=0.5, vision=VISION))
        video, words = Side("video", f"v{number:02}"), f"{COLOURS[number % 8]} number {number}"
        split = "validation" if number >= videos * 3 // 4 else "train"
        sides = [(Side("text", f"a {words}"), video), (Side("text", f"show me the {words}"), video)]
        if number % 4 == 0:
            sides.append((Side("text", f"word {words}"), Side("text", f"a {words}")))
        if number % 7 == 0:
            sides.append((video, Side("text", f"a thing like {words}")))
        pairs += [Pair(query, target, 1.0, None, (), len(pairs)) for query, target in sides]
        splits += [split] * len(sides)
    write_store(folder / STORE_FOLDER, [(f"v{number:02}", f"key{number}") for number in range(videos)], cache, 1.0, VISION)
    write_tables(folder, {f"v{number:02}": (("title", f"clip {number}"),) if number % 2 else () for number in range(videos)}, pairs, splits)


def write_workspace(
    root: Path,
    prepared: Path,
    *,
    model: dict[str, object] | None = None,
    loss: dict[str, object] | None = None,
    mining: dict[str, object] | None = None,
    launch: str = "cpu-1",
    **train: object,
) -> Path:
    """Creates a checkout with settings, launch configs and a link to the prepared data. Mappings and `train` add to the settings."""
    root.mkdir(parents=True)
    (root / "prepared").symlink_to(prepared)
    (root / "configs").symlink_to(ROOT / "configs")
    settings = {
        "model": {"tiny": TINY, "dims": [8, 32], **(model or {})},
        "train": {
            "epochs": 4,
            "batch_size": 8,
            "evaluate_every_epochs": 1,
            "trackers": [],
            "log_every_steps": 3,
            "learning_rate": 0.002,
            **train,
        },
        "loss": loss or {},
        "mining": mining or {},
        "launch": {"config": launch},
        "tracking": {"uri": f"sqlite:///{root}/mlflow.db"},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    return root


def run(root: Path) -> None:
    """Trains in the checkout, in this process."""
    train.run(Workspace(root), load_params(root / "params.yaml"))


def rows(root: Path) -> list[dict[str, str]]:
    """The lines of the training's `reports/training.csv`."""
    with (root / "reports" / "training.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def training_report(root: Path) -> dict[str, object]:
    """Returns the training's report without values that depend on the machine's speed."""
    report: dict[str, object] = json.loads((root / "reports" / "training.json").read_text())
    del report["speed"]
    return report
