"""The examples of docs/extending.md: each does what its section says, in the module that it is for."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reelnest.artifacts.evaluation_report import BehaviourResults
from reelnest.errors import ArtifactError
from reelnest.evaluation import metrics
from reelnest.evaluation.metrics import METRICS, Hits, Relevance, ScoredQueries
from reelnest.registry.promotion import gate
from reelnest.registry.promotion.gate import Challenge
from reelnest.registry.promotion.verdict import decide
from reelnest.settings import Register
from tests.support import reports

PAGE = Path(__file__).parents[3] / "docs" / "extending.md"


def example(heading: str, **names: Any) -> dict[str, Any]:
    """The names that the first Python block of a section defines, with those of the module that it is put into."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    names["__name__"] = __name__
    exec(re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0], names)  # noqa: S102
    return names


@pytest.fixture
def _same_tables_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(gate, "CONDITIONS", list(gate.CONDITIONS))
    before = dict(METRICS)
    yield
    METRICS.clear()
    METRICS.update(before)


@pytest.mark.usefixtures("_same_tables_afterwards")
def test_the_metric_is_the_share_of_the_first_five_results_that_is_relevant() -> None:
    example("A metric", **vars(metrics))
    hits = Hits(np.array([0, 0, 1]), np.array([1, 6, 5]), np.array([1.0, 1.0, 2.0]))
    found = ScoredQueries(hits, Relevance.of([[1.0, 1.0], [2.0], [1.0]]))
    assert metrics.query_metrics(found)["precision@5"].tolist() == [0.2, 0.2, 0.0]
    assert "precision@5" in metrics.comparable_names()


@pytest.mark.usefixtures("_same_tables_afterwards")
def test_the_condition_keeps_a_model_with_few_tests_from_being_promoted() -> None:
    example("A gate condition", **vars(gate))
    behaviour = BehaviourResults.model_validate(reports.behaviour(passed_by_kind={"16": {"direction": 1.0}}))
    verdict = decide(Challenge(Register(), True, behaviour, champion=None, comparison=None), None)
    assert verdict.reason == "there was no champion: 4 behaviour tests, 100 are required"


def test_the_report_of_a_stage_is_written_and_read_and_refused_in_another_version(tmp_path: Path) -> None:
    names = example("A stage")
    report = names["WordsReport"](by_split={"train": names["WordCounts"](texts=2, words=9)})
    path = report.write(tmp_path)
    assert names["WordsReport"].read(tmp_path) == report
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(ArtifactError, match="Run `reelnest words` again"):
        names["WordsReport"].read(tmp_path)
