"""What Prefect shows of an evaluation, and where it links to."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from reelnest.errors import ArtifactError
from reelnest.stages.workspace import Workspace
from tasks.pages.artifacts import data_docs_page, evaluation_link, evaluation_page, lineage_page, quarantine_page, run_link, validation_page
from tests.support import reports


class Mlflow(BaseHTTPRequestHandler):
    """Knows the run r1 of experiment 7, as MLflow's REST API tells it, and no other."""

    def do_GET(self) -> None:
        known = self.path == "/api/2.0/mlflow/runs/get?run_id=r1"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"run": {"info": {"experiment_id": "7"}}} if known else {"error_code": "x"}).encode())

    def log_message(self, *args: Any) -> None:
        pass


def write(folder: Path, name: str, content: reports.Content) -> None:
    (folder / "reports").mkdir()
    (folder / "reports" / name).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Mlflow) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()


def linked(folder: Path, run: dict[str, Any]) -> str | None:
    (folder / "models" / "candidate").mkdir(parents=True)
    (folder / "models" / "candidate" / "run.json").write_text(json.dumps(run))
    return evaluation_link(Workspace(folder))


def test_the_link_leads_to_the_page_among_the_runs_artifacts(tmp_path: Path, server: str) -> None:
    expected = f"{server}/#/experiments/7/runs/r1/artifacts/evaluation/evaluation.html"
    assert linked(tmp_path, {"run_id": "r1", "tracking_uri": f"{server}/"}) == expected


@pytest.mark.parametrize("address", ["", "http://127.0.0.1:1"])
def test_where_mlflow_does_not_answer_or_know_the_run_the_link_leads_to_the_run(tmp_path: Path, server: str, address: str) -> None:
    assert linked(tmp_path, {"run_id": "r2", "tracking_uri": address or server}) == f"{address or server}/#/runs/r2"


@pytest.mark.parametrize("run", [{"run_id": "r1", "tracking_uri": "sqlite:///mlflow.db"}, {"run_id": None, "tracking_uri": None}])
def test_a_run_in_a_file_has_no_link(tmp_path: Path, run: dict[str, Any]) -> None:
    assert linked(tmp_path, run) is None


def test_links_lead_to_where_people_see_mlflow(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELNEST_MLFLOW_UI_URL", "https://mlflow.example.org/")
    link = linked(tmp_path, {"run_id": "r1", "tracking_uri": server})
    assert link == "https://mlflow.example.org/#/experiments/7/runs/r1/artifacts/evaluation/evaluation.html"
    assert run_link(Workspace(tmp_path)) == "https://mlflow.example.org/#/runs/r1"


def test_the_pages_of_validation_read_what_great_expectations_found(tmp_path: Path) -> None:
    outcome = reports.expectation(description="no <b>text</b> is empty", severity="critical", observed="3 of 9")
    write(tmp_path, "validation.json", reports.validation(passed=False, expectations=[outcome]))
    for make_page in (validation_page, data_docs_page):
        shown = make_page(Workspace(tmp_path))
        assert r"| pairs\_used | no &lt;b&gt;text&lt;/b&gt; is empty | critical |" in shown
        assert "3 of 9" in shown


@pytest.mark.parametrize(("records", "rows", "more"), [(0, 0, ""), (50, 50, ""), (60, 50, "And 10 more in")])
def test_the_first_bad_records_are_shown_with_what_is_wrong(records: int, rows: int, more: str, tmp_path: Path) -> None:
    bad = {"file": "videos.jsonl", "reason": "path", "detail": "[x](javascript:alert(1)) <img onerror=1>"}
    (tmp_path / "reports").mkdir()
    lines = "".join(json.dumps({**bad, "line": line}) + "\n" for line in range(records))
    (tmp_path / "reports" / "quarantine.jsonl").write_text(lines)
    shown = quarantine_page(Workspace(tmp_path))
    assert shown.count("| videos.jsonl |") == rows
    assert more in shown
    assert "](" not in shown
    assert "<img" not in shown


def test_a_models_name_cannot_leave_the_commands_of_its_lineage(tmp_path: Path) -> None:
    write(tmp_path, "registration.json", reports.registration(name="x\n\n<script>'; rm -r y", version=2))
    shown = lineage_page(Workspace(tmp_path))
    assert "registered without lineage" in shown
    assert all(line.startswith("    ") for line in shown.splitlines() if "script" in line)
    assert """reelnest lineage 'models:/x <script>'"'"'; rm -r y/2' --commands | bash""" in shown


def test_the_choice_and_the_differences_stand_above_the_figures(tmp_path: Path) -> None:
    content = reports.evaluation(
        configurations=[reports.configuration(name="64 int8")],
        choice=reports.choice(name="64 int8", dim=64, value=0.961, best_name="64", best_dim=64, best_value=0.964, bytes_per_vector=68),
        compared_with=[
            {"what": "champion", "version": 1, "run_id": "r", "metric": "recall@10", "differences": [reports.difference()]},
        ],
        not_compared=[{"what": "previous run", "reason": "there is none yet"}],
    )
    write(tmp_path, "evaluation.json", content)
    shown = evaluation_page(Workspace(tmp_path))
    assert "Recommended: **64 dims, int8**. recall@10 0.961 (best: 0.964 with 64 dims); 68 bytes a vector." in shown
    assert "| 16 | 0.03 | 0.01 | 0.05 |" in shown
    assert "No comparison with the previous run: there is none yet." in shown
    assert shown.index("Recommended") < shown.index("| dim | storage |")


def test_a_report_of_another_version_is_no_page_but_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    write(tmp_path, "evaluation.json", reports.evaluation(schema_version=0))
    with pytest.raises(ArtifactError, match=r"schema_version is 0.*Run `reelnest evaluate` again"):
        evaluation_page(Workspace(tmp_path))
