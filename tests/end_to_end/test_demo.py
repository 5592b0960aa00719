"""What the sample shows after `make demo`: the cost of small dims, the order of frames, and a model that passes its gate."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.artifacts.registration_report import RegistrationReport
from tests.support.small_project import environment, make_clone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports of the demo, in REELNEST_DEMO, a checkout in which it has run, or in a copy of the project, in which it runs now."""
    if ready := os.environ.get("REELNEST_DEMO"):
        return Path(ready) / "reports"
    folder = tmp_path_factory.mktemp("demo") / "project"
    make_clone(folder)
    for command in (["reelnest", "sample"], [sys.executable, "-m", "flows.pipeline"]):
        finished = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=1500, check=False)
        assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    return folder / "reports"


@pytest.fixture(scope="module")
def evaluation(reports: Path) -> EvaluationReport:
    return EvaluationReport.read(reports)


def recall_at_1(reports: Path, dim: int, storage: str, pair_kind: str) -> dict[str, float]:
    """The value and its interval, from the table that DVC draws."""
    with (reports / "metrics_by_dim.csv").open(newline="", encoding="utf-8") as file:
        (row,) = [
            row
            for row in csv.DictReader(file)
            if (row["dim"], row["storage"], row["pair_kind"], row["metric"]) == (str(dim), storage, pair_kind, "recall@1")
        ]
    return {name: float(row[name]) for name in ("value", "low", "high")}


@pytest.mark.parametrize("pair_kind", ["text_to_video", "all"])
def test_the_smallest_dim_costs_recall_beyond_the_confidence_intervals(reports: Path, evaluation: EvaluationReport, pair_kind: str) -> None:
    smallest, full = (recall_at_1(reports, dim, "float32", pair_kind) for dim in (evaluation.dims[0], evaluation.width))
    assert smallest["value"] <= full["value"] - 0.1
    assert smallest["high"] < full["low"]


def test_the_recommended_dim_is_neither_the_smallest_nor_the_largest(evaluation: EvaluationReport) -> None:
    assert evaluation.dims[0] < evaluation.choice.dim < evaluation.width


def test_binary_storage_costs_recall_at_each_dim(reports: Path, evaluation: EvaluationReport) -> None:
    for dim in evaluation.dims:
        assert recall_at_1(reports, dim, "binary", "all")["value"] < recall_at_1(reports, dim, "float32", "all")["value"], dim


def test_the_true_direction_of_movement_outranks_its_opposite(evaluation: EvaluationReport) -> None:
    (outranked,) = [
        entry for entry in evaluation.negatives_outranked if (entry.pair_kind, entry.dim) == ("text_to_video", evaluation.width)
    ]
    assert outranked.value >= 0.8


def test_the_behaviour_tests_pass_at_full_width(evaluation: EvaluationReport) -> None:
    assert evaluation.behaviour.by_kind == {"direction": 90, "invariance": 60, "minimum": 60}
    passed = evaluation.behaviour.passed_by_kind[str(evaluation.width)]
    assert passed["direction"] >= 0.8
    assert min(passed["invariance"], passed["minimum"]) >= 0.95


def test_the_first_model_is_promoted(reports: Path) -> None:
    registration = RegistrationReport.read(reports)
    assert (registration.decision, registration.version) == ("promoted", 1)
    assert "champion" in registration.aliases
