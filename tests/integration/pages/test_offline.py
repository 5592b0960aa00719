"""The files that the README sends people to, opened in Chromium with the network cut."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reelnest.drift.page import write_drift_page
from reelnest.report.evaluation_page import write_evaluation_page
from reelnest.settings import Params, Validate
from reelnest.stages import validate
from reelnest.stages.workspace import Workspace
from tests.conftest import ROOT
from tests.support.drift_reports import drift_report
from tests.support.offline_pages import SCREENS, opened_offline
from tests.unit.report.evaluations import confused, full_evaluation, report, video_query
from tests.unit.report.evaluations import query as text_query

PLOTTED = """[...document.querySelectorAll("canvas")].map((canvas) => {
  const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  return pixels.filter((pixel) => pixel !== pixels[0]).length;
})"""


def evaluation_page(folder: Path) -> Path:
    write_evaluation_page(folder / "evaluation.html", report(full_evaluation()), [text_query("a dog", 3), video_query()], [confused()])
    return folder / "evaluation.html"


def drift_page(folder: Path) -> Path:
    write_drift_page(folder / "drift.html", drift_report())
    return folder / "drift.html"


def data_page(folder: Path) -> Path:
    workspace = Workspace(folder)
    workspace.data.mkdir()
    (workspace.data / "videos.jsonl").touch()
    sides = (("a", "about a", "train"), ("b", "about b", "test"), ("a", "once more about a", "test"))
    pairs = [f'{{"query": "{query}", "target": {{"text": "{target}"}}, "split": "{split}"}}' for query, target, split in sides]
    pairs.append("half a record {")
    (workspace.data / "pairs.jsonl").write_text("\n".join(pairs) + "\n")
    validate.run(workspace, Params(validation=Validate(max_quarantined_fraction=0.9)))
    return workspace.reports / "data_docs" / "index.html"


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def plots_page(folder: Path, *command: str) -> Path:
    """Of a project as small as DVC allows: our `dvc.yaml` and settings of DVC, and two tables."""
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    (folder / "reports").mkdir()
    (folder / "reports" / "training.csv").write_text("epoch,step,loss\n" + "".join(f"1,{step},{9 - step}\n" for step in range(1, 9)))
    rows = [f"all,{dim},float32,{metric},{1 - 1 / dim},," for metric in ("recall@1", "mrr") for dim in (16, 32, 64)]
    header = "pair_kind,dim,storage,metric,value,low,high"
    (folder / "reports" / "metrics_by_dim.csv").write_text("\n".join([header, *rows]) + "\n")
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "add", "--all")
    run(folder, "git", "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "--quiet", "--message", "tables")
    run(folder, str(Path(sys.executable).with_name("dvc")), "plots", *command)
    return folder / "dvc_plots" / "index.html"


MAKERS: dict[str, Callable[[Path], Path]] = {
    "evaluation": evaluation_page,
    "data checks": data_page,
    "drift": drift_page,
    "dvc plots show": lambda folder: plots_page(folder, "show"),
    "dvc plots diff": lambda folder: plots_page(folder, "diff", "HEAD"),
}


@pytest.fixture(scope="module", params=MAKERS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize(("scheme", "width"), SCREENS)
def test_a_page_works_without_a_network(browser: Any, file: Path, scheme: str, width: int) -> None:
    with opened_offline(browser, file.as_uri(), scheme, width) as opened:
        page = opened.page
        if "dvc_plots" in file.parts:
            page.wait_for_function("document.querySelectorAll('canvas').length === 2")
            assert min(page.evaluate(PLOTTED)) > 1000
        else:
            assert page.locator("table").count() > 0
        assert page.evaluate("document.documentElement.scrollWidth") == width
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 27)"
        assert dark == (scheme == "dark")
        for link in page.locator("a[href]").evaluate_all("(links) => links.map((link) => link.href.split('#')[0])"):
            assert link.startswith("file://")
            assert Path(link.removeprefix("file://")).is_file()
        assert opened.faults() == []


def test_a_page_that_needs_the_network_is_caught(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<link rel=icon href='data:,'><script src='https://cdn.example.com/a.js'></script><script>undefined_name</script>"
        "<table><tr><th>Name</th></tr><tr><td> </td></tr></table>"
    )
    with opened_offline(browser, page.as_uri()) as opened:
        request, *console, script, table = opened.faults()
    assert request == "request: https://cdn.example.com/a.js"
    assert "ERR_FAILED" in "".join(console) or "ERR_INTERNET_DISCONNECTED" in "".join(console)
    assert script == "script: undefined_name is not defined"
    assert table == "empty table: Name"
