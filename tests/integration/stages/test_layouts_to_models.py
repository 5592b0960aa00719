"""One of each importer's layouts, through to a trained and evaluated model."""

import json
from pathlib import Path

import pytest
import yaml

import reelnest
from reelnest.backbones.compatibility import load_compatible_params
from reelnest.records.importers.importer import IMPORTERS
from reelnest.records.importing import import_data
from reelnest.stages import evaluate, preprocess, train, validate
from reelnest.stages.workspace import Workspace
from tests.integration.stages.validated_data import make_video
from tests.integration.stages.written_layouts import LAYOUTS

ROOT = Path(__file__).parents[3]
TINY = {"hidden_size": 32, "layers": 2, "heads": 2, "vision_hidden_size": 32, "vision_layers": 2, "vision_heads": 2, "vocabulary": 400}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [make_video(folder / f"{number}.mp4", frames=10 + number) for number in range(10)]


def test_every_importer_has_a_layout_here() -> None:
    assert sorted(LAYOUTS) == list(IMPORTERS.names())


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_becomes_a_trained_and_evaluated_model(name: str, clips: list[Path], tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "project")
    workspace.root.mkdir()
    (workspace.root / "configs").symlink_to(ROOT / "configs")
    sections = {
        "data": {"validation_fraction": 0.2, "test_fraction": 0.3},
        "model": {"tiny": TINY, "dims": [8, 32]},
        "train": {"epochs": 1, "batch_size": 4, "trackers": []},
        "loss": {"graded_relevance": True},
        "launch": {"config": "cpu-1"},
        "evaluate": {"storage": ["float32"], "funnels": []},
    }
    workspace.params.write_text(yaml.safe_dump(sections))
    params = load_compatible_params(workspace.params)

    imported = import_data(name, LAYOUTS[name](tmp_path / "source", clips), workspace.data)
    without_test_file = name == "qvhighlights-moments"
    assert (imported.videos, imported.skipped) == (8 if without_test_file else 10, ())
    validate.run(workspace, params)
    assert (workspace.reports / "quarantine.jsonl").read_text() == ""
    preprocess.run(workspace, params)
    train.run(workspace, params)
    evaluate.run(workspace, params)
    report = json.loads((workspace.reports / "evaluation.json").read_text())
    assert report["queries"] > 0
    model = reelnest.load(workspace.candidate, device="cpu")
    assert model.encode_texts(["a red clip"]).shape == (1, 32)
    model.close()
