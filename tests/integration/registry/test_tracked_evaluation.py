"""What an evaluation logs to MLflow."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest

from reelnest.errors import RegistryError
from reelnest.settings import Tracking
from reelnest.stages import evaluate
from tests.integration.registry.candidate_workspace import Project


def test_mlflow_charts_quality_by_dim(evaluated_folder: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{evaluated_folder}/mlflow.db")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("reelnest").experiment_id])
    report = json.loads((evaluated_folder / "reports/evaluation.json").read_text())
    by_dim = {result["dim"]: result["metrics"]["recall@10"] for result in report["results"] if result["pair_kind"] == "video_to_text"}
    history = client.get_metric_history(run.info.run_id, "test/video_to_text/recall_at_10")
    assert {point.step: point.value for point in history} == by_dim
    of_codes = {
        row["dim"]: row["metrics"]["recall@10"] for row in report["configurations"] if row["name"].endswith("int8") and not row["funnel"]
    }
    history = client.get_metric_history(run.info.run_id, "test/all/int8/recall_at_10")
    assert {point.step: point.value for point in history} == of_codes
    assert {"test/all/funnel 8-32/mrr", "test/all/funnel 8-32 int8/mrr", "test/all/binary/map"} <= set(run.data.metrics)
    full = next(result for result in report["results"] if result["pair_kind"] == "all" and result["dim"] == 32)
    assert run.data.metrics["test/ndcg_at_10"] == full["metrics"]["ndcg@10"]
    files = {file.path for file in client.list_artifacts(run.info.run_id, "evaluation")}
    assert {"evaluation/evaluation.html", "evaluation/metrics_by_dim.csv"} <= files


def test_metrics_are_logged_to_the_run_of_the_training(project: Project) -> None:
    mlflow.set_tracking_uri(project.params.tracking.uri)
    client = mlflow.MlflowClient()
    run_id = client.create_run(client.create_experiment("reelnest")).info.run_id
    (project.workspace.candidate / "run.json").write_text(json.dumps({"run_id": run_id}))
    evaluate.run(project.workspace, project.params)
    assert "test/recall_at_10" in client.get_run(run_id).data.metrics


def test_an_unreachable_mlflow_fails_before_the_evaluation(project: Project) -> None:
    shutil.rmtree(project.reports)
    params = project.params.model_copy(update={"tracking": Tracking(uri="http://127.0.0.1:1")})
    with pytest.raises(RegistryError, match="does not respond"):
        evaluate.run(project.workspace, params)
    assert not project.reports.exists()
