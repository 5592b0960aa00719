"""Measures reelnest beside an alternative, and records the ratio.

Usage: `make bench` for all, `make bench NAME=eval-dims` for one.

Both sides of a row run in this order: ours, theirs, ours, theirs, …, each in a process of its own, so that a slow minute of the
machine hits both and peak memory is each side's own. The ratio is the median over the pairs of runs, oriented so that larger is better.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "summary.json"


@dataclass(frozen=True)
class Benchmark:
    """What is measured against what. `ours` and `theirs` prepare, and return the function that is timed."""

    what: str
    against: str
    at_least: float
    ours: Callable[[], Callable[[], Any]]
    theirs: Callable[[], Callable[[], Any]]
    runs: int = 5


def _candidate(dims: int | None) -> Callable[[], Any]:
    """Evaluation of the trained model on the test split, encoding included, at its first `dims` dims, widest first (None: all)."""
    import torch

    import reelnest
    from reelnest.data.prepared import Prepared
    from reelnest.training.retrieval import evaluate_split

    if not (ROOT / "models" / "candidate").is_dir():
        raise SystemExit("there is no models/candidate here to evaluate: run `make demo` first")
    torch.set_num_threads(2)
    model, prepared = reelnest.load(ROOT / "models" / "candidate"), Prepared.open(ROOT / "prepared")
    chosen = model.dims[::-1][:dims]
    return lambda: evaluate_split(prepared, "test", model.encoder, model.batcher, chosen, batch_size=64, depth=1000)


def _vectors() -> tuple[Any, Any, tuple[int, ...]]:
    import torch

    torch.set_num_threads(2)
    numbers = torch.Generator().manual_seed(0)
    return torch.randn(500, 1024, generator=numbers), torch.randn(50_000, 1024, generator=numbers), (64, 128, 256, 512, 1024)


def _prefix_topk() -> Callable[[], Any]:
    from reelnest.search.topk import prefix_topk

    queries, corpus, dims = _vectors()
    return lambda: prefix_topk(queries, corpus, dims, 100)


def _search_a_dim() -> Callable[[], Any]:
    import torch
    from torch.nn.functional import normalize

    queries, corpus, dims = _vectors()
    return lambda: [torch.topk(normalize(queries[:, :d], dim=1) @ normalize(corpus[:, :d], dim=1).T, 100) for d in dims]


BENCHMARKS = {
    "eval-dims": Benchmark(
        "evaluation of the candidate at all of its dims",
        "the same at the full width",
        1 / 1.15,
        lambda: _candidate(None),
        lambda: _candidate(1),
    ),
    "topk": Benchmark(
        "exact top-100 of 500 queries in 50,000 × 1,024, 5 dims, ties in a fixed order",
        "torch.topk of normalised vectors, one dim after the other",
        1.8,
        _prefix_topk,
        _search_a_dim,
    ),
}


def measure_side(name: str, side: str) -> dict[str, float]:
    """Seconds of the second call (the first one warms up), and the growth of this process's peak memory over what preparing took."""
    call = getattr(BENCHMARKS[name], side)()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "kilobytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)}


def _run_side(name: str, side: str) -> dict[str, float]:
    command = [sys.executable, __file__, name, "--side", side]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(name: str) -> dict[str, Any]:
    """Runs one benchmark; its record."""
    benchmark = BENCHMARKS[name]
    ours, theirs = [], []
    for number in range(benchmark.runs):
        ours.append(_run_side(name, "ours"))
        theirs.append(_run_side(name, "theirs"))
        sys.stderr.write(f"{name} {number + 1}/{benchmark.runs}: {ours[-1]['seconds']:.3f} s against {theirs[-1]['seconds']:.3f} s\n")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return {
        "name": name,
        "what": benchmark.what,
        "against": benchmark.against,
        "ratio": statistics.median(b["seconds"] / a["seconds"] for a, b in zip(ours, theirs, strict=True)),
        "at_least": benchmark.at_least,
        "ours": statistics.median(side["seconds"] for side in ours),
        "theirs": statistics.median(side["seconds"] for side in theirs),
        "unit": "seconds",
        "memory_ratio": statistics.median(b["kilobytes"] / max(a["kilobytes"], 1) for a, b in zip(ours, theirs, strict=True)),
        "runs": benchmark.runs,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "commit": commit,
        "command": f"make bench NAME={name}",
    }


def main() -> None:
    """Runs what is named, or everything, and merges the records into results/summary.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", choices=[*BENCHMARKS, ""], default="")
    parser.add_argument("--side", choices=["ours", "theirs"])
    arguments = parser.parse_args()
    if arguments.side:
        sys.stdout.write(json.dumps(measure_side(arguments.name, arguments.side)) + "\n")
        return
    records = {record["name"]: record for record in json.loads(RESULTS.read_text())} if RESULTS.is_file() else {}
    for name in [arguments.name] if arguments.name else BENCHMARKS:
        records[name] = run(name)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(list(records.values()), indent=2) + "\n")
        found = records[name]
        sys.stdout.write(f"{name}: {found['ratio']:.2f} × {found['against']} (at least {found['at_least']:.2f})\n")


if __name__ == "__main__":
    main()
