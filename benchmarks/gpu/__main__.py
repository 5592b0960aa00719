"""Runs the checks one after the other, each in a process of its own, and writes the results.

A check that crashes, hangs or runs out of memory does not stop the next. Each result is printed as one line of JSON and added to the
results file at once. A check that no longer fits the budget is skipped.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import child
from benchmarks.gpu.checks import CHECKS, Check
from benchmarks.gpu.requirements import is_installed, problems
from benchmarks.gpu.started import Started

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
NEEDED = ("torch", "transformers", "accelerate", "peft", "pydantic", "ruamel.yaml", "numpy", "scipy", "pyarrow", "psutil")
ENVIRONMENT = Check("environment", "the card and the versions", "benchmarks.gpu.child:environment", 0, 120)
SETTLED_S = 3.0
"""Seconds that a process has to start and to end, outside its check."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if every check passed or was skipped, otherwise 1; 2 if nothing can run here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--budget-s", type=float, default=480.0, help="seconds for everything")
    parser.add_argument("--only", action="append", metavar="NAME", help="a check, or module:function; may be repeated")
    parser.add_argument("--out", type=Path, help="the results file; default: benchmarks/results/gpu.json, for all checks on a GPU")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.child:
        return child.main(*parsed.child)
    if missing := [name for name in NEEDED if not is_installed(name)]:
        sys.stderr.write(f"benchmarks.gpu: not installed: {', '.join(missing)}. Run `pip install {' '.join(missing)}`.\n")
        return 2
    if unmet := problems(ROOT / "pyproject.toml"):
        sys.stderr.write("".join(f"benchmarks.gpu: {problem}\n" for problem in unmet))
        return 2
    checks = _chosen(parsed.only)
    is_complete = parsed.device == "cuda" and parsed.size == "full" and not parsed.only
    out = parsed.out or (RESULTS if is_complete else None)
    with tempfile.TemporaryDirectory(prefix="reelnest-gpu-") as folder:
        return _run(checks, parsed, out, Path(folder))


def _chosen(only: Sequence[str] | None) -> list[Check]:
    if not only:
        return list(CHECKS)
    by_name = {check.name: check for check in CHECKS}
    unknown = [name for name in only if name not in by_name and ":" not in name]
    if unknown:
        raise SystemExit(f"benchmarks.gpu: no check {', '.join(unknown)}; known: {', '.join(by_name)}")
    return [by_name.get(name) or Check(name, name, name, 0, 60) for name in only]


def _run(checks: Sequence[Check], parsed: argparse.Namespace, out: Path | None, folder: Path) -> int:
    ends = time.monotonic() + parsed.budget_s
    document: dict[str, Any] = {
        "device": parsed.device,
        "size": parsed.size,
        "commit": _commit(),
        "command": "python -m benchmarks.gpu" + "".join(f" {word}" for word in sys.argv[1:]),
        "environment": {},
        "checks": [],
    }
    queue = [ENVIRONMENT, *checks]
    started: list[Started] = []

    def start(number: int) -> Started:
        while len(started) <= number:
            started.append(Started(queue[len(started)], parsed.device, parsed.size, folder, ROOT))
        return started[number]

    try:
        for number, check in enumerate(queue):
            left = ends - time.monotonic() - SETTLED_S
            process = start(number)
            if left < check.needs_s or left < 1:
                record = process.skip(f"{max(left, 0):.0f} s of the budget are left, and it needs {check.needs_s:.0f} s")
            else:
                if number + 1 < len(queue):
                    start(number + 1)  # it imports the libraries meanwhile
                record = process.finish(min(check.limit_s, left))
            if check is ENVIRONMENT:
                document["environment"] = record["figures"]
                if record["status"] != "passed":
                    document["checks"].append(record)
            else:
                document["checks"].append(record)
            _print(record)
            if check is ENVIRONMENT and record["status"] != "passed":
                return 1  # and nothing is written: without a card there are no results
            _write(out, document)
    finally:
        for process in started:
            process.kill()
    statuses = [record["status"] for record in document["checks"]]
    return 0 if set(statuses) <= {"passed", "skipped"} else 1


def _print(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _write(out: Path | None, document: dict[str, Any]) -> None:
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".aside.{out.name}")
    aside.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(out)


def _commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
