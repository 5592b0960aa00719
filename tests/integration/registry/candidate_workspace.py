"""A small workspace after training: prepared data with a test split, and a random model as the candidate."""

import json
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import yaml

from reelnest.atomic_files import write_json
from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.backbones.tiny import build_tiny
from reelnest.encoder.encoder import load_encoder
from reelnest.encoder.saved import save_model
from reelnest.records.behaviour_tests import BEHAVIOUR_FILE, BehaviourTest, write_behaviour
from reelnest.records.formats import Pair, Side
from reelnest.settings import Params, Tracking, load_params
from reelnest.stages.workspace import Workspace
from reelnest.store.frame_cache import FrameCache
from reelnest.store.frame_store_writing import write_store
from reelnest.store.prepared import STORE_FOLDER, write_tables
from reelnest.video.frames import Frames
from reelnest.video.patches import to_patches
from tests.support import reports

ROOT = Path(__file__).parents[3]
COLOURS = ("red", "green", "blue", "yellow", "purple", "white", "grey", "orange")
TINY = {"hidden_size": 32, "layers": 2, "heads": 2, "vision_hidden_size": 32, "vision_layers": 2, "vision_heads": 2, "vocabulary": 400}
VIDEOS = 16
BEHAVIOUR = (
    BehaviourTest("invariance", "a red number 8", "a number 8 that is red", (), (), 10, 1, 1),
    # The first video is one of training, which no search of the test split looks for.
    BehaviourTest("direction", "a red number 8", "", ("v00",), ("v09",), 0, 0, 2),
    BehaviourTest("direction", "a red number 8", "", ("v09",), ("v00",), 0, 0, 3),
    BehaviourTest("minimum", "a green number 9", "", ("v09",), (), 9, 0, 4),
    BehaviourTest("minimum", "a green number 9", "", ("gone",), (), 9, 0, 5),
)


@dataclass(frozen=True)
class Project:
    """A workspace and its settings."""

    workspace: Workspace
    params: Params

    @property
    def reports(self) -> Path:
        return self.workspace.reports


def workspace_of(root: Path) -> Project:
    """The workspace in a folder, with the MLflow store of that folder."""
    workspace = Workspace(root)
    return Project(workspace, load_params(workspace.params).model_copy(update={"tracking": Tracking(uri=f"sqlite:///{root}/mlflow.db")}))


def text(words: str) -> Side:
    return Side("text", words)


def video(number: int) -> Side:
    return Side("video", f"v{number:02}")


def write_prepared(folder: Path, scratch: Path) -> None:
    """Pairs of all four kinds with grades, negatives and several relevant items. The second half is the test split."""
    random = np.random.default_rng(7)
    cache = FrameCache(scratch)
    pairs: list[Pair] = []
    splits: list[str] = []
    for number in range(VIDEOS):
        height = 56 if number % 3 else 28
        frames = random.integers(0, 255, (4, height, 56, 3), dtype=np.uint8) // 4 + np.uint8(20 * (number % 8))
        cache.add(f"key{number}", Frames.of(*to_patches(frames, VISION), seconds_per_grid=0.5, vision=VISION))
        words = f"{COLOURS[number % 8]} number {number}"
        twin = video(number ^ 1)
        rows = [(text(f"a {words}"), video(number), 2.0, (twin,)), (text(f"a {COLOURS[number % 8]} thing"), video(number), 1.0, ())]
        if number % 4 == 0:
            rows += [(text(f"word {words}"), text(f"a {words}"), 1.0, ()), (video(number), twin, 1.0, ())]
        pairs += [Pair(query, target, grade, None, wrong, len(pairs)) for query, target, grade, wrong in rows]
        splits += ["test" if number >= VIDEOS // 2 else "train"] * len(rows)
    write_store(folder / STORE_FOLDER, [(video(number).value, f"key{number}") for number in range(VIDEOS)], cache, 1.0, VISION)
    fields = {video(number).value: (("title", f"clip {number}"),) if number % 2 else () for number in range(VIDEOS)}
    write_tables(folder, fields, pairs, splits)


def write_workspace(root: Path, store_uri: str) -> Params:
    """Writes all files that evaluation and registration read to `root`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "configs").symlink_to(ROOT / "configs")
    settings = {
        "model": {"tiny": TINY, "dims": [8, 32], "query_instruction": "Find it."},
        "preprocess": {"frames": 4, "max_pixels": 3136},
        "train": {"batch_size": 8},
        "evaluate": {"gallery_queries": 4},
        "register": {"behaviour_passed": {"invariance": 0.0, "direction": 0.0, "minimum": 0.0}},
        "launch": {"config": "cpu-1"},
        "tracking": {"uri": store_uri},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    params = load_params(root / "params.yaml")
    write_prepared(root / "prepared", root / "scratch")
    write_candidate(root / "models" / "candidate", params, root / "base")
    write_json(root / "reports" / "validation.json", reports.validation())
    write_behaviour(root / "reports" / BEHAVIOUR_FILE, BEHAVIOUR)
    return params


def write_candidate(folder: Path, params: Params, base: Path) -> None:
    """A model with random weights."""
    build_tiny(base, [f"a {colour} circle number 0 1 2 3 4 5 6 7 8 9" for colour in COLOURS] * 4, params.model.tiny, 0)
    encoder, tokenizer = load_encoder(params.model, base, training=True)
    save_model(folder, encoder, tokenizer, params.model, params.preprocess, params.data.text_fields)
    (folder / "run.json").write_text(json.dumps({"run_id": None, "experiment": None, "tracking_uri": None}))


def write_clip(path: Path, brightness: int) -> Path:
    """A short H.264 video of noise."""
    random = np.random.default_rng(brightness)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(8):
            picture = random.integers(0, 255, (64, 64, 3), dtype=np.uint8) // 4 + np.uint8(brightness)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
