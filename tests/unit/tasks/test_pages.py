"""What Prefect shows of an evaluation, and where it links to."""

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from reelnest.checks.expectations import Outcome
from reelnest.stages.workspace import Workspace
from tasks.pages.artifacts import data_docs_page, evaluation_link, evaluation_page, lineage_page, quarantine_page, run_link, validation_page

METRICS = dict.fromkeys(("recall@1", "recall@5", "recall@10", "mrr", "ndcg@10", "map", "median_rank"), 0.5)


class Mlflow(BaseHTTPRequestHandler):
    """Knows the run r1 of experiment 7, as MLflow's REST API tells it, and no other."""

    def do_GET(self) -> None:
        known = self.path == "/api/2.0/mlflow/runs/get?run_id=r1"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"run": {"info": {"experiment_id": "7"}}} if known else {"error_code": "x"}).encode())

    def log_message(self, *args: Any) -> None:
        pass


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
    outcome = Outcome("pairs_used", "expect_x", "no <b>text</b> is empty", "critical", False, "3 of 9", (1, 2))
    report = {
        "passed": False,
        "videos": {"lines": 4, "good": 3},
        "pairs": {"lines": 9, "good": 6, "by_split_and_kind": {}},
        "quarantined": {"records": 60, "fraction": 0.1, "allowed_fraction": 0.05, "by_reason": {}},
        "expectations": [asdict(outcome)],
    }
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "validation.json").write_text(json.dumps(report))
    for make_page in (validation_page, data_docs_page):
        shown = make_page(Workspace(tmp_path))
        assert r"| pairs\_used | no &lt;b&gt;text&lt;/b&gt; is empty | critical |" in shown
        assert "3 of 9" in shown


@pytest.mark.parametrize(("records", "rows", "more"), [(0, 0, ""), (50, 50, ""), (60, 50, "And 10 more")])
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
    (tmp_path / "reports").mkdir()
    registered = {"name": "x\n\n<script>'; rm -r y", "version": 2, "lineage": None}
    (tmp_path / "reports" / "registration.json").write_text(json.dumps(registered))
    shown = lineage_page(Workspace(tmp_path))
    assert "registered without its lineage" in shown
    assert all(line.startswith("    ") for line in shown.splitlines() if "script" in line)
    assert """reelnest lineage 'models:/x <script>'"'"'; rm -r y/2' --commands | bash""" in shown


def test_the_choice_and_the_differences_stand_above_the_figures(tmp_path: Path) -> None:
    result = {"pair_kind": "all", "dim": 16, "storage": "float32", "metrics": METRICS, "bytes_per_vector": 64}
    difference = {"dim": 16, "value": 0.03, "low": 0.01, "high": 0.05}
    report = {
        "split": "test",
        "results": [result],
        "negatives_outranked": [],
        "choice": {
            "name": "64 int8", "dim": 64, "metric": "recall@10", "value": 0.961, "best_name": "64", "best_dim": 64, "best_value": 0.964,
            "bytes_per_vector": 68,
        },
        "compared_with": [{"what": "champion", "metric": "recall@10", "differences": [difference]}],
        "not_compared": [{"what": "previous run", "reason": "there is none yet"}],
    }  # fmt: skip
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "evaluation.json").write_text(json.dumps(report))
    shown = evaluation_page(Workspace(tmp_path))
    assert "**64 int8** is enough: recall@10 0.961, against 0.964 with 64; 68 bytes a vector." in shown
    assert "| 16 | 0.03 | 0.01 | 0.05 |" in shown
    assert "Not compared with the previous run: there is none yet." in shown
    assert shown.index("is enough") < shown.index("| dim | storage |")
