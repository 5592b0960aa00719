"""The content of the drift page, also in Chromium. Hostile text stays text."""

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from reelnest.drift.page import write_drift_page
from reelnest.drift.paired_bars import of_histogram
from tests.support.drift_reports import HOSTILE, drift_report


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 400)])
def test_the_page_fits_the_screen_makes_no_requests_and_runs_no_text(browser: Any, tmp_path: Path, scheme: str, width: int) -> None:
    write_drift_page(tmp_path / "drift.html", drift_report())
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto((tmp_path / "drift.html").as_uri())
    assert requests == [(tmp_path / "drift.html").as_uri()]
    assert complaints == []
    assert page.title() == "Drift: 2 of 4 measures drifted"
    assert HOSTILE in page.locator("td.item").first.inner_text()
    assert page.locator("tr.drifted th").all_inner_texts() == ["length of texts", "pair kinds"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    violations = Axe().run(page).response["violations"]
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in violations if rule["impact"] in ("serious", "critical")] == []
    page.close()


def test_a_page_without_data_or_earlier_metrics_shows_that(tmp_path: Path) -> None:
    report = drift_report() | {"distributions": {}, "pair_kinds": {}, "unlike": {}, "compared_data": False, "drifted": [], "measures": []}
    report["quality"]["queries"]["before"] = None
    report["quality"]["dims"] = [{**by_side, "before": None} for by_side in report["quality"]["dims"]]
    write_drift_page(tmp_path / "drift.html", report)
    text = (tmp_path / "drift.html").read_text(encoding="utf-8")
    assert "<h1>No drift was shown</h1>" in text
    assert "only covers the champion's retrieval" in text
    assert "Distributions" not in text
    write_drift_page(tmp_path / "drift.html", report | {"quality": None})
    assert "Retrieval by the champion" not in (tmp_path / "drift.html").read_text(encoding="utf-8")


def test_bars_are_as_high_as_their_shares() -> None:
    chart = of_histogram("Lengths", {"edges": [0.0, 1.0, 2.0], "before": [0.25, 0.75], "after": [0.5, 0.5]}, "characters")
    assert chart.axes == "share by characters"
    heights = [bar.height for bar in chart.bars]
    assert heights[2] / heights[0] == pytest.approx(3)
    assert heights[1] == heights[3] == pytest.approx(2 * heights[0])
    assert [bar.title for bar in chart.bars][2] == "1 and more: 75.0% before"
    assert all(bar.y + bar.height == pytest.approx(chart.bottom) for bar in chart.bars)
