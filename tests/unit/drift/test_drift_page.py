"""The drift's page, in Chromium too: what it says, and that a hostile text stays a text."""

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from reelnest.drift.page import write_drift_page
from reelnest.drift.paired_bars import of_histogram
from tests.support.drift_reports import HOSTILE, drift_report


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 400)])
def test_the_page_fits_the_screen_asks_the_network_for_nothing_and_runs_no_text(
    browser: Any, tmp_path: Path, scheme: str, width: int
) -> None:
    write_drift_page(tmp_path / "drift.html", drift_report())
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto((tmp_path / "drift.html").as_uri())
    assert asked == [(tmp_path / "drift.html").as_uri()]
    assert complaints == []
    assert page.title() == "Drift: 2 of 4 measures drifted"
    assert HOSTILE in page.locator("td.said").first.inner_text()
    assert page.locator("tr.drifted th").all_inner_texts() == ["length of texts", "pair kinds"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
    page.close()


def test_a_page_without_data_or_earlier_figures_says_so(tmp_path: Path) -> None:
    report = drift_report() | {"distributions": {}, "pair_kinds": {}, "unlike": {}, "compared_data": False, "drifted": [], "measures": []}
    report["quality"]["queries"]["before"] = None
    report["quality"]["dims"] = [{**one, "before": None} for one in report["quality"]["dims"]]
    write_drift_page(tmp_path / "drift.html", report)
    text = (tmp_path / "drift.html").read_text(encoding="utf-8")
    assert "<h1>No drift was shown</h1>" in text
    assert "of the champion's retrieval alone" in text
    assert "Distributions" not in text
    write_drift_page(tmp_path / "drift.html", report | {"quality": None})
    assert "Retrieval by the champion" not in (tmp_path / "drift.html").read_text(encoding="utf-8")


def test_bars_are_as_high_as_their_shares() -> None:
    chart = of_histogram("Lengths", {"edges": [0.0, 1.0, 2.0], "before": [0.25, 0.75], "after": [0.5, 0.5]})
    heights = [bar.height for bar in chart.bars]
    assert heights[2] / heights[0] == pytest.approx(3)
    assert heights[1] == heights[3] == pytest.approx(2 * heights[0])
    assert [bar.title for bar in chart.bars][2] == "1 and more: 75.0% before"
    assert all(bar.y + bar.height == pytest.approx(chart.bottom) for bar in chart.bars)
