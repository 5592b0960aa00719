"""The chain with a model family that the package does not have."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import reelnest
from reelnest.backbones.compatibility import load_compatible_params
from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.backbones.family import FAMILIES
from reelnest.backbones.registry import family_of
from reelnest.backbones.tiny import build_tiny
from reelnest.errors import ConfigError, DataError, ModelError
from reelnest.records.formats import write_quarantine
from reelnest.settings import Model, Params, Tiny
from reelnest.stages import evaluate, preprocess, train
from reelnest.stages.workspace import Workspace
from reelnest.store.prepared import Prepared
from tests.support.toy_family import TOY, toy_family

MakeVideo = Callable[..., Path]
ROOT = Path(__file__).parents[3]
SIZES = Tiny(hidden_size=32, layers=2, heads=2, vision_hidden_size=32, vision_layers=2, vision_heads=2, vocabulary=300)
TEXTS = [f"the clip number {number}" for number in range(12)]


@pytest.fixture
def toy() -> Iterator[None]:
    with toy_family():
        yield


@pytest.fixture
def workspace(tmp_path: Path, make_video: MakeVideo) -> Workspace:
    """Twelve clips, each with a query; the last four are for the test."""
    root = tmp_path / "checkout"
    videos, pairs = [], []
    for number, text in enumerate(TEXTS):
        make_video(f"checkout/data/{number}.mp4", frames=10, step=2 * number)
        videos.append({"video_id": f"v{number:02}", "path": f"{number}.mp4"})
        split = "test" if number >= 8 else "train"
        pairs.append({"query": {"text": text}, "target": {"video": f"v{number:02}"}, "split": split})
    for name, records in (("videos", videos), ("pairs", pairs)):
        (root / "data" / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_quarantine(root / "reports" / "quarantine.jsonl", [])
    (root / "configs").symlink_to(ROOT / "configs")
    return Workspace(root)


def settings(workspace: Workspace, base: str | Path, *, frames: int = 3, **model: Any) -> Params:
    """Frames of one third of a clip each: a step of the family is one frame, not two."""
    sections = {
        "preprocess": {"frames": frames, "min_pixels": 256, "max_pixels": 1024},
        "model": {"name_or_path": str(base), "dims": [8, 32], "freeze": "vision", "query_instruction": "find", **model},
        "train": {"epochs": 2, "batch_size": 4, "trackers": [], "learning_rate": 0.01},
        "launch": {"config": "cpu-1"},
        "evaluate": {"storage": ["float32"], "funnels": []},
    }
    workspace.params.write_text(yaml.safe_dump(sections))
    return load_compatible_params(workspace.params)


@pytest.mark.usefixtures("toy")
def test_a_family_from_outside_goes_through_the_chain(workspace: Workspace, tmp_path: Path) -> None:
    base = tmp_path / "base"
    build_tiny(base, TEXTS, SIZES, seed=0, family=TOY)
    params = settings(workspace, base)

    preprocess.run(workspace, params)
    prepared = Prepared.open(workspace.prepared)
    assert prepared.store.vision == TOY.vision
    assert prepared.store.grids[0].tolist() == [3, 2, 4]  # frames of 16 x 32 pixels
    with pytest.raises(DataError, match="patch_size 8, not 14"):
        prepared.store.require(FAMILY.vision)

    train.run(workspace, params)
    assert json.loads((workspace.candidate / "config.json").read_text())["model_type"] == "toy_vl"
    [features] = [json.loads(path.read_text()) for path in workspace.work.glob("frozen/*/rows.json")]
    assert (features["width"], features["vision"]["patch_size"]) == (64, 8)

    evaluate.run(workspace, params)
    report = json.loads((workspace.reports / "evaluation.json").read_text())
    assert report["queries"] == 8  # each pair both ways

    model = reelnest.load(workspace.candidate, device="cpu")
    vectors = model.encode_videos([workspace.data / "9.mp4", workspace.data / "2.mp4"])
    entries = [prepared.entry(prepared.video_item(name), "target") for name in ("v09", "v02")]
    np.testing.assert_allclose(vectors, model.encode(entries), atol=1e-6)
    assert vectors.shape == (2, 32)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3)
    model.close()


@pytest.mark.parametrize("name", FAMILIES.names())
def test_tiny_of_each_family_goes_through_the_chain(workspace: Workspace, name: str) -> None:
    """With LoRA on the tower too, so that every part of the model is run forward and backward."""
    more = {"tiny": SIZES.model_dump(), "family": name, "freeze": "none", "lora": {"r": 4, "vision": True}, "pooling": "last"}
    params = settings(workspace, "tiny", frames=4, **more)
    preprocess.run(workspace, params)
    prepared = Prepared.open(workspace.prepared)
    assert prepared.store.vision == FAMILIES[name].vision

    train.run(workspace, params)
    evaluate.run(workspace, params)
    assert json.loads((workspace.reports / "evaluation.json").read_text())["queries"] == 8

    model = reelnest.load(workspace.candidate, device="cpu")
    assert model.encoder.family is FAMILIES[name]
    vectors = model.encode_videos([workspace.data / "9.mp4", workspace.data / "2.mp4"])
    entries = [prepared.entry(prepared.video_item(name), "target") for name in ("v09", "v02")]
    np.testing.assert_allclose(vectors, model.encode(entries), atol=1e-6)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-4)
    model.close()


@pytest.mark.usefixtures("toy")
def test_training_and_evaluation_refuse_data_of_another_family(workspace: Workspace, tmp_path: Path) -> None:
    build_tiny(tmp_path / "toy", TEXTS, SIZES, seed=0, family=TOY)
    build_tiny(tmp_path / "own", TEXTS, SIZES, seed=0)
    preprocess.run(workspace, settings(workspace, tmp_path / "toy", frames=4))
    with pytest.raises(DataError, match=r"prepared for another model family \(patch_size 8, not 14.*Run `reelnest preprocess`"):
        train.run(workspace, settings(workspace, tmp_path / "own", frames=4))


@pytest.mark.usefixtures("toy")
def test_what_is_asked_without_weights_is_asked_of_the_family(workspace: Workspace, tmp_path: Path) -> None:
    published = Model(name_or_path="toys/Toy-VL-1M", revision="0" * 40, dims=(8, 32))
    assert family_of(published) is TOY
    build_tiny(tmp_path / "own", TEXTS, SIZES, seed=0)
    with pytest.raises(ConfigError, match=r"must be a multiple of 2 \(Qwen2\.5-VL joins 2 frames into one step\); found 3, use 4"):
        settings(workspace, tmp_path / "own", frames=3)


def test_a_family_that_nobody_registered_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with toy_family():
        build_tiny(tmp_path, TEXTS, SIZES, seed=0, family=TOY)
    with pytest.raises(
        ModelError, match=r"model_type is 'toy_vl'; known model types: 'qwen2_5_vl' \(Qwen2\.5-VL\), .*'qwen2_vl' \(Qwen2-VL\)"
    ):
        family_of(Model(name_or_path=str(tmp_path), dims=(32,)))
