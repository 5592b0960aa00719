"""Writes the source files that each stage imports into the `deps` of `dvc.yaml`.

Usage: `python -m reelnest.commands.dvc_yaml [DVC_YAML]`, as `make dvc.yaml` does it. Only lines with a file in `src/` change; comments and
everything else stay.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from reelnest.atomic_files import write_lines
from reelnest.code_closure import code_files, stage_code

SOURCE = "src/reelnest"
_STAGE = re.compile(r"  (\w+):")
_KEY = re.compile(r"    (\w+):")


def with_code_deps(text: str) -> str:
    """Returns `dvc.yaml` with the source files that each stage imports at the end of its `deps`, instead of the earlier ones."""
    return "".join(f"{line}\n" for line in _lines(text.splitlines()))


def _lines(lines: list[str]) -> Iterator[str]:
    stage, key = "", ""
    for line in lines:
        if key == "deps" and not line.startswith("      "):
            yield from (f"      - {SOURCE}/{name}" for name in code_files(stage_code(stage)))
            key = ""
        if header := _KEY.fullmatch(line):
            key = header[1]
        elif header := _STAGE.fullmatch(line):
            stage = header[1]
        if not (key == "deps" and line.startswith(f"      - {SOURCE}/")):
            yield line


def main() -> None:
    """Updates the file."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "dvc.yaml")
    write_lines(path, with_code_deps(path.read_text(encoding="utf-8")).splitlines())


if __name__ == "__main__":
    main()
