"""Settings that do not fit their model, checked before it is opened."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from reelnest.backbones.compatibility import check_frames, embedding_width, load_compatible_params
from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.errors import ConfigError
from reelnest.settings import Model, Params

ROOT = Path(__file__).parents[3]
PRESETS = sorted((ROOT / "configs" / "presets").glob("*.yaml"))


def params_file(folder: Path, **sections: dict[str, Any]) -> Path:
    shutil.copytree(ROOT / "configs", folder / "configs")
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_fits_its_model(preset: Path, tmp_path: Path) -> None:
    path = params_file(tmp_path)
    shutil.copy(preset, path)
    assert load_compatible_params(path)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"model": {"dims": [16, 32, 256]}}, "model.dims: 256 is above the embedding's width, 128 (the hidden size of tiny)"),
        ({"model": {"projection": 64}}, "model.dims: 128 is above the embedding's width, 64 (model.projection)"),
        (
            {"model": {"name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct", "revision": "0" * 40, "dims": [4096]}},
            "model.dims: 4096 is above the embedding's width, 2048 (the hidden size of Qwen/Qwen2.5-VL-3B-Instruct)",
        ),
        (
            {"preprocess": {"frames": 7}},
            "preprocess.frames: must be a multiple of 2 (Qwen2.5-VL joins 2 frames into one step); found 7, use 8.",
        ),
        (
            {"model": {"family": "qwen3_vl"}, "preprocess": {"min_pixels": 3136, "max_pixels": 3200}},
            "preprocess.max_pixels: a frame of Qwen3-VL has a multiple of 1024 pixels, and none is between min_pixels (3136) and"
            " max_pixels (3200); use max_pixels 4096 or more.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_key(sections: dict[str, Any], expected: str, tmp_path: Path) -> None:
    path = params_file(tmp_path, **sections)
    with pytest.raises(ConfigError) as caught:
        load_compatible_params(path)
    assert f"{path}: {expected}" in str(caught.value)


def test_all_problems_are_in_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)model\.dims.*preprocess\.frames"):
        load_compatible_params(params_file(tmp_path, model={"dims": [999]}, preprocess={"frames": 3}))


@pytest.mark.parametrize(("name", "width"), [("Qwen/Qwen2.5-VL-3B-Instruct", 2048), ("Qwen/Qwen2.5-VL-7B-Instruct", 3584), ("a/b", None)])
def test_the_width_of_a_known_hub_model_is_known_without_a_download(name: str, width: int | None) -> None:
    assert embedding_width(Model(name_or_path=name, revision="0" * 40)) == width


def test_the_width_of_a_folder_is_read_from_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"text_config": {"hidden_size": 320}}')
    assert embedding_width(Model(name_or_path=str(tmp_path))) == 320


def test_frames_are_checked_again_once_the_family_is_known() -> None:
    params = Params.model_validate({"model": {"name_or_path": "a/b", "revision": "0" * 40}, "preprocess": {"frames": 5}})
    with pytest.raises(ConfigError, match="multiple of 2"):
        check_frames(params, FAMILY)


def test_the_check_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    path = params_file(tmp_path, model={"name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct", "revision": "0" * 40})
    code = f"from pathlib import Path; from reelnest.backbones.compatibility import load_compatible_params as ask; ask(Path({str(path)!r}))"
    heavy = "import sys; print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}; {heavy}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
