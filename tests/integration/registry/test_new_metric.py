"""A new metric only needs an entry in the table: it can then be chosen in params.yaml, computed, shown and used for promotion."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import pytrec_eval
import yaml

from reelnest.errors import ConfigError
from reelnest.evaluation.metrics import METRICS, Metric, register
from reelnest.settings import load_params
from reelnest.stages import evaluate
from reelnest.stages import register as register_stage
from tasks.pages.artifacts import evaluation_page, registration_page
from tasks.pages.summary import summary
from tests.integration.registry.candidate_workspace import Project, workspace_of

NAME = "precision@5"
PLOT = Path(__file__).parents[3] / ".dvc" / "plots" / "quality_by_dim.json"


@pytest.fixture
def new_metric() -> Iterator[Metric]:
    """The share of relevant results among the first five: trec_eval's P_5."""
    yield register(Metric(NAME, "Precision@5", lambda scored: scored.total((scored.hits.rank <= 5) * 1.0) / 5, display="chart"))
    del METRICS[NAME]


@pytest.fixture
def chosen(project: Project) -> Project:
    """The evaluated project, with the metric in all settings of params.yaml that name a metric."""
    settings = yaml.safe_load(project.workspace.params.read_text())
    settings["train"]["best_metric"] = settings["evaluate"]["choice_metric"] = settings["register"]["metric"] = NAME
    project.workspace.params.write_text(yaml.safe_dump(settings))
    return project


def test_a_metric_that_is_not_in_the_table_cannot_be_chosen(chosen: Project) -> None:
    with pytest.raises(ConfigError) as caught:
        load_params(chosen.workspace.params)
    for key in ("train.best_metric", "evaluate.choice_metric", "register.metric"):
        assert f"{key}: unknown metric 'precision@5'; known: recall@1, hit@1, recall@5, recall@10" in str(caught.value)


@pytest.mark.usefixtures("new_metric")
def test_a_new_metric_is_computed_shown_and_compared_everywhere(chosen: Project) -> None:
    project = workspace_of(chosen.workspace.root)
    evaluate.run(project.workspace, project.params)

    report = json.loads((project.reports / "evaluation.json").read_text())
    with (project.reports / "run.trec").open() as run_file, (project.reports / "qrels.trec").open() as qrels_file:
        run, qrels = pytrec_eval.parse_run(run_file), pytrec_eval.parse_qrel(qrels_file)
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"P_5"}).evaluate(run)
    expected = float(np.mean([of_query["P_5"] for of_query in theirs.values()]))
    (full,) = (result for result in report["results"] if (result["pair_kind"], result["dim"]) == ("all", 32))
    assert full["metrics"][NAME] == pytest.approx(expected, abs=1e-9)
    low, high = full["intervals"][NAME]
    assert low <= expected <= high
    assert report["choice"]["metric"] == NAME
    assert {NAME in row["metrics"] for row in report["slices"]} == {True}

    with (project.reports / "metrics_by_dim.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == NAME]
    assert {(row["dim"], row["storage"]) for row in rows} == {(dim, kind) for dim in ("8", "32") for kind in ("float32", "int8", "binary")}
    assert not any(name in PLOT.read_text() for name in METRICS)  # it draws the metrics of the file, in the file's order

    page = (project.reports / "evaluation.html").read_text()
    assert page.count("<figcaption>Precision@5 <") == 1
    assert '<th scope="col">Precision@5</th>' in page
    assert f"| median_rank | {NAME} |" in evaluation_page(project.workspace).replace("\\", "")
    assert NAME in summary(project.workspace)

    mlflow.set_tracking_uri(project.params.tracking.uri)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("reelnest").experiment_id])
    assert run.data.metrics["test/precision_at_5"] == full["metrics"][NAME]

    register_stage.run(project.workspace, project.params)
    assert f"| metric | {NAME} |" in registration_page(project.workspace)
    version = client.get_model_version_by_alias("reelnest", "champion")
    assert float(version.tags["precision_at_5"]) == full["metrics"][NAME]
    (card,) = (project.workspace.root / "mlruns").rglob("candidate/README.md")
    assert "name: precision@5" in card.read_text()
