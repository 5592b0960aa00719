"""The keys of checkpoints and cached features: other code gives another key."""

import functools
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.code_closure import PACKAGE, code_digest
from reelnest.settings import Params
from reelnest.store.frame_store import INDEX_FILE
from reelnest.store.prepared import ITEMS_FILE, PAIRS_FILE, STORE_FOLDER
from reelnest.training import frozen
from reelnest.training.checkpoint import checkpoints


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the code that determines the keys."""
    copy = tmp_path / "reelnest"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for module in (checkpoints, frozen):
        monkeypatch.setattr(module, "code_digest", functools.partial(code_digest, package=copy))
    return copy


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    for name in (ITEMS_FILE, PAIRS_FILE, f"{STORE_FOLDER}/{INDEX_FILE}"):
        path = tmp_path / "prepared" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"data")
    return tmp_path / "prepared"


def training_key(prepared: Path) -> str:
    return checkpoints.training_key(Params(), prepared)


def feature_key() -> str:
    module: Any = nn.Linear(2, 2)
    nn.init.ones_(module.weight)
    nn.init.zeros_(module.bias)
    module.config = SimpleNamespace(to_dict=dict)
    job = frozen._Job("states", module, np.ones(3, dtype=np.int64), [[0]], lambda _: [], {})
    accelerator: Any = SimpleNamespace(mixed_precision="no", device=torch.device("cpu"))
    return frozen._key(job, "data", VISION, accelerator)


def change(package: Path, name: str) -> None:
    with (package / name).open("a") as file:
        file.write("\n")
    code_digest.cache_clear()


def test_a_training_and_its_features_are_not_taken_over_where_mean_and_std_changed(package: Path, prepared: Path) -> None:
    before = training_key(prepared), feature_key()
    assert (training_key(prepared), feature_key()) == before
    [path] = [path for path in package.rglob("*.py") if "0.48145466" in path.read_text(encoding="utf-8")]
    change(package, str(path.relative_to(package)))
    after = training_key(prepared), feature_key()
    assert after[0] != before[0]
    assert after[1] != before[1]


@pytest.mark.parametrize("name", ["report/evaluation_page.py", "commands/search.py", "profiling/profiler.py", "encoder/saved.py"])
def test_a_training_resumes_after_a_change_of_code_that_decides_no_weights(name: str, package: Path, prepared: Path) -> None:
    before = training_key(prepared), feature_key()
    change(package, name)
    assert (training_key(prepared), feature_key()) == before
