"""`dvc.yaml` against the code: a stage whose code is not among its dependencies would not run again when that code changes."""

from pathlib import Path
from typing import Any

import yaml

from reelnest.code_closure import code_files, stage_code
from reelnest.commands.dvc_yaml import with_code_deps
from reelnest.settings import Params
from tasks import stages

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
STAGES: dict[str, Any] = yaml.safe_load(TEXT)["stages"]


def test_the_code_of_each_stage_is_what_it_imports() -> None:
    assert with_code_deps(TEXT) == TEXT, "run `make dvc.yaml`"


def test_each_stage_is_written_anew_with_its_comments_and_other_files_kept() -> None:
    without = [line for line in TEXT.splitlines() if not line.startswith("      - src/")]
    assert with_code_deps("\n".join(without)) == TEXT
    for stage, entry in STAGES.items():
        assert [name for name in entry["deps"] if name.startswith("src/")] == [
            f"src/reelnest/{name}" for name in code_files(stage_code(stage))
        ]


def test_a_flow_runs_each_stage_in_its_order() -> None:
    assert [task.name for task in stages.DVC_STAGES] == list(STAGES)


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
