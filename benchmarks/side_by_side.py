"""What a benchmark is, and how its two sides are run and compared.

Sides run in the order ours, theirs, ours, theirs, …, each in a process of its own, so that a slow minute of the machine hits both and peak
memory is each side's own. The ratio is the median over the pairs of runs, oriented so that larger is better.

This module and those that define benchmarks import nothing heavy at the top: the peers' environment, which lacks reelnest's dependencies,
runs them too.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers"
Figures = dict[str, float]


@dataclass(frozen=True)
class Benchmark:
    """What is measured against what. `ours` and `theirs` prepare, and return the function that is measured."""

    what: str
    against: str
    at_least: float
    ours: Callable[[], Callable[[], Any]]
    theirs: Callable[[], Callable[[], Any]]
    runs: int = 5
    unit: Literal["seconds", "kilobytes", "pairs/s", "requests/s", "error", "share"] = "seconds"
    """What the ratio is of. Seconds are those of a second call (the first one warms up), kilobytes the growth of the process's peak memory
    over what preparing took. For the others, or with `counts`, the function is called once, and returns a dict that holds the figure (and
    may hold kilobytes).
    """
    peers: bool = False
    """Whether `theirs` runs in the peers' environment."""
    counts: bool = False
    """Whether the functions find out the figure themselves."""
    setup: Callable[[], Any] | None = None
    """What makes the files that both sides read; called once before them, in our environment."""

    def ratio(self, ours: Figures, theirs: Figures) -> float:
        """Of one pair of runs."""
        a, b = ours[self.unit], theirs[self.unit]
        return a / max(b, 1e-12) if self.unit in ("pairs/s", "requests/s", "share") else b / max(a, 1e-12)


def measure_side(benchmark: Benchmark, side: str) -> Figures:
    """What one side's process finds."""
    call = getattr(benchmark, side)()
    before = peak_kilobytes()
    if benchmark.counts or benchmark.unit not in ("seconds", "kilobytes"):
        figures: Figures = call()
        return {"kilobytes": peak_kilobytes(), **figures}
    call()
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "kilobytes": max(peak_kilobytes() - before, 1.0)}


def compare(name: str, benchmark: Benchmark, runs: int) -> dict[str, Any]:
    """Runs both sides of one benchmark, `runs` times each; its record."""
    if benchmark.setup is not None:
        benchmark.setup()
    ours, theirs = [], []
    for number in range(runs):
        ours.append(_run_side(name, "ours", sys.executable))
        theirs.append(_run_side(name, "theirs", str(PEERS / "bin" / "python") if benchmark.peers else sys.executable))
        found, other = ours[-1][benchmark.unit], theirs[-1][benchmark.unit]
        sys.stderr.write(f"{name} {number + 1}/{runs}: {found:.4g} {benchmark.unit} against {other:.4g}\n")
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "name": name,
        "what": benchmark.what,
        "against": benchmark.against,
        "ratio": statistics.median(benchmark.ratio(a, b) for a, b in pairs),
        "at_least": benchmark.at_least,
        "ours": statistics.median(figures[benchmark.unit] for figures in ours),
        "theirs": statistics.median(figures[benchmark.unit] for figures in theirs),
        "unit": benchmark.unit,
        "memory_ratio": statistics.median(b["kilobytes"] / a["kilobytes"] for a, b in pairs),
        "runs": runs,
        "machine": f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "commit": _commit(),
        "command": f"make bench NAME={name}" + (f" CLIPS={os.environ['CLIPS']}" if os.environ.get("CLIPS") else ""),
    }


def _run_side(name: str, side: str, python: str) -> Figures:
    command = [python, "-m", "benchmarks.run", name, "--side", side]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _commit() -> str:
    """With `-dirty` where anything but earlier results differs from it."""
    name = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    code = ["git", "diff", "--quiet", "HEAD", "--", ".", ":!benchmarks/results", ":!benchmarks/README.md"]
    return name if subprocess.run(code, cwd=ROOT, check=False).returncode == 0 else f"{name}-dirty"


def peak_kilobytes() -> float:
    """The largest resident memory of this process so far."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _processor() -> str:
    information = Path("/proc/cpuinfo")  # Linux only
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
