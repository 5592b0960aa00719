"""`dvc.yaml` against the code: a stage whose code is not among its dependencies would not run again when that code changes."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reelnest.settings import Params
from reelnest.stages.evaluation_code import CODE

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "src"
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]

# As dvc.yaml says at its top. `reelnest.video.decoder` is what a saved model opens videos with; training and evaluation read the store.
LEFT_OUT = ("reelnest.settings", "reelnest.errors", "reelnest.registry", "reelnest.stages.workspace", "reelnest.stages.launch")
LEFT_OUT_BY_STAGE = {"train": ("reelnest.video.decoder",), "evaluate": ("reelnest.video.decoder",)}
# Small things without a choice of their own: how a file is written whole, how a JSON line is read.
LEFT_OUT_AFTER_THE_STORE = (
    "reelnest.atomic_files",
    "reelnest.records.json_lines",
    "reelnest.records.safe_paths",
    "reelnest.records.formats",
)


def source_file(module: str) -> Path | None:
    path = SOURCE.joinpath(*module.split("."))
    return next((found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()), None)


def named_modules(path: Path) -> Iterator[str]:
    """What a file imports, and modules of ours that it starts as `python -m`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("reelnest."):
            yield node.value


def code_of(stage: str) -> set[Path]:
    left_out = LEFT_OUT + LEFT_OUT_BY_STAGE.get(stage, ()) + (LEFT_OUT_AFTER_THE_STORE if stage in LEFT_OUT_BY_STAGE else ())
    waiting, seen, found = [f"reelnest.stages.{stage}"], set(), set()
    while waiting:
        module = waiting.pop()
        path = source_file(module)
        if path is None or path in seen or any(module == name or module.startswith(f"{name}.") for name in left_out):
            continue
        seen.add(path)
        if path.name != "__init__.py":  # these hold a docstring
            found.add(path)
        waiting += [name for name in named_modules(path) if name.startswith("reelnest.")]
    return found


def dependencies(stage: str) -> list[Path]:
    return [ROOT / name for name in STAGES[stage]["deps"] if name.startswith("src/")]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_code_that_it_runs(stage: str) -> None:
    missing = [path for path in code_of(stage) if not any(path == known or known in path.parents for known in dependencies(stage))]
    assert [str(path.relative_to(ROOT)) for path in missing] == [], f"add these to the deps of {stage} in dvc.yaml"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_no_code_that_it_does_not_run(stage: str) -> None:
    code = code_of(stage)
    idle = [known for known in dependencies(stage) if not any(path == known or known in path.parents for path in code)]
    assert [str(path.relative_to(ROOT)) for path in idle] == [], f"take these from the deps of {stage} in dvc.yaml"


def test_figures_are_compared_where_dvc_would_not_run_the_evaluation_again() -> None:
    """But for its page, which draws figures and makes none."""
    named = {SOURCE / "reelnest" / name for name in CODE}
    assert named == {path for path in dependencies("evaluate") if path.name != "report"}


def test_stages_depend_on_settings_that_exist_and_never_on_where_runs_are_recorded() -> None:
    settings: dict[str, Any] = Params().model_dump(by_alias=True)
    for stage in STAGES.values():
        for name in stage["params"]:
            section, _, key = name.partition(".")
            assert section in settings
            assert not key or key in settings[section]
            assert section not in ("tracking", "register")


def test_nothing_is_kept_out_of_the_run_cache() -> None:
    """`persist`, or an output without cache, would turn it off for the stage."""
    for stage in STAGES.values():
        assert all(isinstance(out, str) for out in [*stage["outs"], *stage.get("metrics", [])])
