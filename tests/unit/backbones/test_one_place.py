"""Only a model family's own file names it."""

import re
from pathlib import Path

import reelnest

PACKAGE = Path(reelnest.__file__).parent
NAMES = re.compile(r"qwen_?2[._]5|1176|vision_start|video_pad|endoftext|im_end|mrope", re.IGNORECASE)


def test_only_the_backbones_know_one_model_family() -> None:
    others = [path for path in PACKAGE.rglob("*.py") if PACKAGE / "backbones" not in path.parents]
    assert len(others) > 100
    named = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in others
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if NAMES.search(line)
    ]
    assert named == []


def test_accelerates_files_and_settings_name_no_family_either() -> None:
    root = PACKAGE.parents[1]
    files = [*(root / "configs" / "accelerate").glob("*.yaml"), root / "params.yaml"]
    assert [path.name for path in files if NAMES.search(path.read_text(encoding="utf-8"))] == []
