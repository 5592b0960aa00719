"""The features of frozen modules are computed once."""

import shutil
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from accelerate.state import AcceleratorState

from reelnest.encoder.encoder import Encoder
from reelnest.errors import TrainingError
from reelnest.stages import train
from reelnest.store.cached_rows import CachedRowsWriter
from tests.integration.training.training_workspace import rows, run, training_report, write_workspace

VISION: dict[str, object] = {"lora": {"r": 4, "dropout": 0.1}}
BACKBONE: dict[str, object] = {"freeze": "backbone", "projection": 32, "query_instruction": "Find it."}


def losses(root: Path) -> np.ndarray:
    return np.array([float(row["loss"]) for row in rows(root)])


def validated(root: Path) -> list[dict[str, float]]:
    report: dict[str, Any] = training_report(root)
    return [entry["metrics"]["32"] for entry in report["validation"]]


def cache_folders(root: Path) -> list[Path]:
    return sorted((root / "work" / "frozen").iterdir())


def never(*_arguments: object, **_more: object) -> NoReturn:
    raise AssertionError("a frozen module ran although its features are cached")


@pytest.mark.parametrize(("model", "method"), [(VISION, "encode_video"), (BACKBONE, "pooled")])
def test_a_frozen_module_runs_once_and_training_gives_what_it_gives_uncached(
    model: dict[str, object], method: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not Muon: its bfloat16 products amplify differences in the last bit.
    mining: dict[str, object] = {"negatives_per_pair": 1, "ranks": [1, 1]}
    released: list[Encoder] = []
    monkeypatch.setattr(Encoder, "release_vision_tower", lambda encoder: released.append(encoder))
    root = write_workspace(tmp_path / "kept", prepared, model=model, mining=mining, epochs=2, optimizer="adamw")
    run(root)
    [folder] = cache_folders(root)
    assert len(released) == 1
    with monkeypatch.context() as changed:
        changed.setattr(train, "cache_frozen_features", lambda prepared, *_: prepared)
        plain = write_workspace(tmp_path / "plain", prepared, model=model, mining=mining, epochs=2, optimizer="adamw")
        run(plain)
    assert len(released) == 1
    np.testing.assert_allclose(losses(root), losses(plain), rtol=1e-4)
    for actual, expected in zip(*(validated(path) for path in (root, plain)), strict=True):
        assert actual == pytest.approx(expected)
    # Other settings of the training, but the same weights and data: the module does not run.
    again = write_workspace(tmp_path / "again", prepared, model=model, mining=mining, epochs=1, batch_size=12)
    (again / "work").mkdir()
    shutil.copytree(root / "work" / "frozen", again / "work" / "frozen")
    monkeypatch.setattr(Encoder, method, never)
    if method == "pooled":
        monkeypatch.setattr(Encoder, "encode_video", never)
    run(again)
    assert cache_folders(again) == [again / "work" / "frozen" / folder.name]


def test_a_tower_that_trains_is_not_cached(prepared: Path, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "checkout", prepared, model={"lora": {"r": 4, "vision": True}}, epochs=1)
    run(root)
    assert not (root / "work" / "frozen").exists()


def test_bfloat16_tokens_are_read_unchanged_and_differ_from_float32s(prepared: Path, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "checkout", prepared, model=VISION, epochs=1, mixed_precision="bf16")
    run(root)
    [folder] = cache_folders(root)
    assert '"dtype": "uint16"' in (folder / "rows.json").read_text()
    assert np.isfinite(losses(root)).all()
    AcceleratorState._reset_state()
    params = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(params.replace("mixed_precision: bf16", "mixed_precision: 'no'"))
    run(root)
    [replacement] = cache_folders(root)  # the outdated folder is removed
    assert replacement.name != folder.name
    assert '"dtype": "float32"' in (replacement / "rows.json").read_text()


def test_a_training_killed_while_it_caches_leaves_no_folder_that_looks_complete(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_workspace(tmp_path / "checkout", prepared, model=VISION, epochs=1)
    put, written = CachedRowsWriter.put, []

    def full(writer: CachedRowsWriter, number: int, rows: Any) -> None:
        written.append(number)
        if len(written) == 10:
            raise OSError(28, "No space left on device")
        put(writer, number, rows)

    with monkeypatch.context() as changed:
        changed.setattr(CachedRowsWriter, "put", full)
        with pytest.raises(TrainingError, match=r"cannot write the video tokens of the frozen module.*No space left.*Free some space"):
            run(root)
    assert all(path.name.startswith(".") for path in cache_folders(root))
    run(root)
    assert len(cache_folders(root)) == 1


def test_a_full_disk_is_logged_and_training_goes_on(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_workspace(tmp_path / "checkout", prepared, model=VISION, epochs=1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    run(root)
    assert not cache_folders(root)
    assert "the video tokens of the frozen module need" in caplog.text
