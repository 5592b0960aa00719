"""What Prefect shows of an evaluation, and where it links to."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from reelnest.stages.workspace import Workspace
from tasks.pages import evaluation_link, evaluation_page

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
