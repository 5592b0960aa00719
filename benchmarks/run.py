"""Measures reelnest beside an alternative, and records the ratio.

Usage: `make bench` for all, `make bench NAME=eval-dims` for one; `.venv/bin/python -m benchmarks.run eval-dims --runs 1` for a quick look.
How sides are compared: side_by_side.py. One module a family of benchmarks; each has its `BENCHMARKS`.
"""

import argparse
import json
import sys

from benchmarks import (
    decoding,
    idle_gpus,
    importing,
    losses,
    memory_prediction,
    readme,
    scale,
    scheduling,
    search,
    serving,
    step_memory,
    training,
    vector_search,
)
from benchmarks.side_by_side import ROOT, compare, measure_side

RESULTS = ROOT / "benchmarks" / "results" / "summary.json"
FAMILIES = (
    training,
    decoding,
    losses,
    step_memory,
    memory_prediction,
    search,
    vector_search,
    scheduling,
    idle_gpus,
    scale,
    importing,
    serving,
)
BENCHMARKS = {name: benchmark for family in FAMILIES for name, benchmark in family.BENCHMARKS.items()}


def main() -> None:
    """Runs what is named, or everything, merges the records into results/summary.json and writes README.md from them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", choices=[*BENCHMARKS, ""], default="")
    parser.add_argument("--runs", type=int, help="pairs of runs, in place of each benchmark's own number")
    parser.add_argument("--side", choices=["ours", "theirs"], help="one side, once, here; its figures as JSON (run.py calls this)")
    arguments = parser.parse_args()
    if arguments.side:
        sys.stdout.write(json.dumps(measure_side(BENCHMARKS[arguments.name], arguments.side)) + "\n")
        return
    records = {record["name"]: record for record in json.loads(RESULTS.read_text())} if RESULTS.is_file() else {}
    for name in [arguments.name] if arguments.name else BENCHMARKS:
        record = compare(name, BENCHMARKS[name], arguments.runs or BENCHMARKS[name].runs)
        records[name] = record
        ordered = sorted(records.values(), key=lambda record: [*BENCHMARKS, record["name"]].index(record["name"]))
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(ordered, indent=2, ensure_ascii=False) + "\n")
        readme.write(ordered, RESULTS.parent.parent)
        sys.stdout.write(f"{name}: {record['ratio']:.2f} × {record['against']} (at least {record['at_least']:.2f})\n")


if __name__ == "__main__":
    main()
