"""A new evaluation compared with the champion and the previous run, in a real MLflow store."""

from pathlib import Path

import mlflow
import pandas as pd
import pytest

from reelnest.artifacts.evaluation_report import ComparedWith, EvaluationReport, NotComparedWith
from reelnest.registry.candidate import Candidate
from reelnest.registry.promotion.comparison import compare
from reelnest.registry.promotion.evaluation_log import log_evaluation
from reelnest.settings import Params, Tracking, Train
from tests.integration.registry.candidate_workspace import Project

Comparisons = dict[str, ComparedWith | NotComparedWith]


def data_hash(reports: Path) -> str:
    return EvaluationReport.read(reports).data.hash


def against(
    params: Params, reports: Path, model: str = "another", *, change: float = 0.0, data: str | None = None, dims: int = 1, code: str = ""
) -> Comparisons:
    """Compares a model whose recall is higher by `change` for each query of `reports`, at dims `dims` times as large."""
    queries = pd.read_parquet(reports / "queries.parquet")
    queries["recall@10"] += change
    queries["dim"] *= dims
    queries.attrs = {"code": code} if code else queries.attrs
    return {
        comparison.what: comparison for comparison in compare(params, Candidate(Path(), model, None), queries, data or data_hash(reports))
    }


def reason(comparisons: Comparisons, what: str) -> str:
    comparison = comparisons[what]
    assert isinstance(comparison, NotComparedWith)
    return comparison.reason


def test_the_champion_is_compared_query_by_query_at_each_dim(registered: Project) -> None:
    comparisons = against(registered.params, registered.reports, change=0.25)
    champion = comparisons["champion"]
    assert isinstance(champion, ComparedWith)
    assert (champion.version, champion.metric) == (1, "recall@10")
    assert [difference.dim for difference in champion.differences] == [8, 32]
    for difference in champion.differences:  # the difference is the same for each query, although the queries differ
        assert (difference.low, difference.value, difference.high) == pytest.approx((0.25, 0.25, 0.25), abs=1e-6)
    assert reason(comparisons, "previous run") == "it is the champion's run"


def test_incomparable_evaluations_give_a_reason(registered: Project) -> None:
    params, reports = registered.params, registered.reports
    itself = EvaluationReport.read(reports).model.hash
    assert reason(against(params, reports, itself), "champion") == "this model is the champion (version 1)"
    other_data = against(params, reports, data="0" * 64)
    assert reason(other_data, "champion") == "version 1 was evaluated on other test data"
    assert "other test data" in reason(other_data, "previous run")
    assert "another version of the code" in reason(against(params, reports, code="another"), "champion")
    assert "no dim in common" in reason(against(params, reports, dims=3), "champion")


def test_the_previous_run_is_the_latest_other_run_on_this_data(project: Project) -> None:
    params, reports = project.params, project.reports
    assert {what: reason(against(params, reports), what) for what in ("champion", "previous run")} == {
        "champion": "there is none yet",
        "previous run": "there is none yet",
    }
    report = EvaluationReport.read(reports)
    queries = reports / "queries.parquet"
    table = pd.read_parquet(queries)
    for model, value, data in (("first", 0.0, data_hash(reports)), ("second", 0.5, data_hash(reports)), ("third", 1.0, "other data")):
        table.assign(**{"recall@10": value}).to_parquet(queries)
        of_data = report.model_copy(update={"data": report.data.model_copy(update={"hash": data})})
        log_evaluation(params, Candidate(Path(), model, None), of_data, [queries])
    table.assign(**{"recall@10": 0.6}).to_parquet(queries)
    previous = against(params, reports)["previous run"]
    assert isinstance(previous, ComparedWith)
    assert [round(difference.value, 6) for difference in previous.differences] == [0.1, 0.1]
    assert mlflow.get_run(previous.run_id).data.tags["reelnest.model_hash"] == "second"
    own = against(params, reports, "second")["previous run"]  # a repeated evaluation is not compared with itself
    assert isinstance(own, ComparedWith)
    assert [round(difference.value, 6) for difference in own.differences] == [0.6, 0.6]


def test_without_mlflow_the_evaluation_continues_with_a_reason(project: Project) -> None:
    away = project.params.model_copy(update={"tracking": Tracking(uri="http://127.0.0.1:1")})
    assert "does not respond" in reason(against(away, project.reports), "champion")
    untracked = project.params.model_copy(update={"train": Train(batch_size=8, trackers=())})
    assert "does not include mlflow" in reason(against(untracked, project.reports), "previous run")
