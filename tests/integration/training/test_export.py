"""A model trained with LoRA, in both of its forms."""

from pathlib import Path

import numpy as np
import pytest

import reelnest
from reelnest.backbones.tiny import build_tiny
from reelnest.commands import export
from reelnest.errors import ConfigError, ModelError
from reelnest.settings import Params, Tiny, load_params
from reelnest.stages import train
from reelnest.stages.workspace import Workspace
from tests.integration.training.training_workspace import COLOURS, TINY, write_workspace

TEXTS = [f"a {colour} number 3" for colour in COLOURS]


def trained(root: Path, prepared: Path, model: dict[str, object]) -> tuple[Workspace, Params]:
    write_workspace(root, prepared, model=model, epochs=1, learning_rate=0.05)
    workspace, params = Workspace(root), load_params(root / "params.yaml")
    train.run(workspace, params)
    return workspace, params


def test_adapters_alone_and_merged_again_give_the_candidates_vectors(prepared: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    build_tiny(base, TEXTS, Tiny.model_validate(TINY), seed=0)
    workspace, params = trained(tmp_path / "checkout", prepared, {"name_or_path": str(base), "lora": {"r": 4}, "projection": 32})
    expected = reelnest.load(workspace.candidate).encode_texts(TEXTS)
    export.run(workspace, params, tmp_path / "adapters", adapter=True)
    assert (tmp_path / "adapters" / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "adapters" / "model.safetensors").exists()
    np.testing.assert_allclose(reelnest.load(tmp_path / "adapters").encode_texts(TEXTS), expected, atol=1e-5)
    # Back again: the adapters' folder as a candidate.
    workspace.candidate.rename(tmp_path / "merged before")
    (tmp_path / "adapters").rename(workspace.candidate)
    export.run(workspace, params, tmp_path / "merged", adapter=False)
    assert not (tmp_path / "merged" / "adapter").exists()
    base.rename(tmp_path / "base that is gone")
    np.testing.assert_allclose(reelnest.load(tmp_path / "merged").encode_texts(TEXTS), expected, atol=1e-5)
    with pytest.raises(ModelError, match="merged exists already"):
        export.run(workspace, params, tmp_path / "merged", adapter=False)


def test_what_has_no_other_form_is_refused_with_the_reason(prepared: Path, tmp_path: Path) -> None:
    workspace, params = trained(tmp_path / "tiny", prepared, {"lora": {"r": 4}})
    with pytest.raises(ConfigError, match="a tiny model has none"):
        export.run(workspace, params, tmp_path / "new", adapter=True)
    with pytest.raises(ModelError, match=r"is missing\. Run `reelnest train`"):
        export.run(Workspace(tmp_path / "nothing"), params, tmp_path / "new", adapter=False)
    plain = workspace.candidate / "reelnest.json"
    plain.write_text(plain.read_text().replace('"lora": {', '"lora": null, "unused": {'))
    with pytest.raises(ModelError, match=r"trained without LoRA \(model\.lora: null\)"):
        export.run(workspace, params, tmp_path / "new", adapter=False)
    assert not (tmp_path / "new").exists()
