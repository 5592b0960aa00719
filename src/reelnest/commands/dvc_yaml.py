"""The files of code in the `deps` of `dvc.yaml`, written from what each stage imports.

Usage: `python -m reelnest.commands.dvc_yaml [DVC_YAML]`, as `make dvc.yaml` does it. Only the lines that name a file below `src/` are
written anew; comments and everything else stay. A new module needs no edit by hand.
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
    """`dvc.yaml` with the code that each stage imports at the end of its `deps`, in place of the code that was named there."""
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
    """Writes the file again."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "dvc.yaml")
    write_lines(path, with_code_deps(path.read_text(encoding="utf-8")).splitlines())


if __name__ == "__main__":
    main()
