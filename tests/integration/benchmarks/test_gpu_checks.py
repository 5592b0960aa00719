"""`python -m benchmarks.gpu` on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.checks import CHECKS
from benchmarks.gpu.requirements import problems

ROOT = Path(__file__).parents[3]
FAULTY = "tests.integration.benchmarks.faulty_checks"


def run(*arguments: str, out: Path) -> tuple[int, dict[str, dict[str, Any]], dict[str, Any]]:
    """Returns the exit status, the printed lines by name, and the results file."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--size", "tiny", "--out", str(out), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {line["name"]: line for line in lines}, json.loads(out.read_text())


def test_a_check_that_ends_badly_leaves_the_others_running(tmp_path: Path) -> None:
    names = [f"{FAULTY}:{name}" for name in ("dies", "lacks_memory", "disagrees")]
    chosen = [word for name in [*names, "parity"] for word in ("--only", name)]
    status, lines, results = run(*chosen, out=tmp_path / "gpu.json")
    assert status == 1
    dies, lacks_memory, disagrees = (lines[name] for name in names)
    assert (dies["status"], dies["figures"]) == ("crashed", {"before": 1})
    assert "SIGKILL" in dies["reason"]
    assert (lacks_memory["status"], lacks_memory["reason"]) == ("out of memory", "RuntimeError: CUDA error: out of memory")
    assert disagrees["status"] == "failed"
    assert disagrees["figures"] == {"after": 3.142}
    assert disagrees["failures"] == ["1 + 1 is 2", "second part: ValueError: wrong"]
    assert lines["parity"]["status"] == "passed"
    assert lines["parity"]["figures"]["qwen2_5_vl"]["difference_float32"] == 0  # the CPU and the CPU
    assert results["checks"] == [line for name, line in lines.items() if name != "environment"]
    assert results["environment"]["torch"]
    assert results["device"] == "cpu"


def test_a_check_that_no_longer_fits_the_budget_is_skipped(tmp_path: Path) -> None:
    needed = next(check.needs_s for check in CHECKS if check.name == "parity")
    status, lines, _ = run("--budget-s", str(needed - 0.1), "--only", "parity", out=tmp_path / "gpu.json")
    assert (status, lines["parity"]["status"]) == (0, "skipped")
    assert "budget" in lines["parity"]["reason"]


@pytest.mark.slow
def test_a_check_that_hangs_is_killed(tmp_path: Path) -> None:
    status, lines, _ = run("--budget-s", "25", "--only", f"{FAULTY}:hangs", out=tmp_path / "gpu.json")
    hangs = lines[f"{FAULTY}:hangs"]
    assert (status, hangs["status"], hangs["figures"]) == (1, "timed out", {"before": 2})


@pytest.mark.slow
def test_all_checks_pass_with_tiny_sizes(tmp_path: Path) -> None:
    status, lines, results = run(out=tmp_path / "gpu.json")
    assert {name: line["status"] for name, line in lines.items() if line["status"] not in ("passed", "skipped")} == {}
    assert status == 0
    assert [check["name"] for check in results["checks"]] == [check.name for check in CHECKS]


def test_a_library_older_than_the_project_asks_for_is_named(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text('[project]\ndependencies = ["torch>=2.11,<2.14", "transformers>=99.1", "mlflow>=99"]\n')
    [problem] = problems(pyproject)
    assert "transformers" in problem
    assert "99.1" in problem
