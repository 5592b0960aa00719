"""The page of the data checks: what it says, and that a hostile text stays a text."""

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from reelnest.artifacts.validation_report import ExpectationOutcome, Severity, ValidationReport
from reelnest.checks.findings import Example, Finding
from reelnest.records.formats import BadRecord
from reelnest.report.data_checks.validation_page import SHOWN_EXAMPLES, SHOWN_RECORDS, write_validation_page
from tests.support import reports

HOSTILE = "<script>document.title = 'taken'</script>"


def finding(
    suite: str, description: str, observed: Any, *examples: Example, severity: Severity = "warning", success: bool = False
) -> Finding:
    lines = tuple(example.line for example in examples)
    outcome = ExpectationOutcome(
        suite=suite,
        expectation="expect_something",
        description=description,
        severity=severity,
        success=success,
        observed=observed,
        lines=lines,
    )
    return Finding(outcome, ("frames",), "1 to 50,000", examples)


FINDINGS = [
    finding("videos_found", "a video has frames", {"rows": 1200, "unexpected": 1}, Example(3, HOSTILE, "0")),
    finding("videos_used", "every video has an id", {"rows": 1199, "unexpected": 0}, severity="critical", success=True),
    finding("pairs_used", "there are pairs to test with", {"missing": ["test"]}, severity="critical"),
    finding("pairs_advice", "no kind is rare", 0.004),
    finding("pairs_advice", "no query is in two splits", {"rows": 40, "unexpected": 30}, *[Example(n, f"pair {n}", "") for n in range(30)]),
]
BAD = [BadRecord("videos.jsonl", line, "bad_json", f"half a line {HOSTILE}") for line in range(1, SHOWN_RECORDS + 6)]

TEXTS = {"distinct": 1500, "near_duplicates": 7, "near_duplicates_of_train": 3, "scripts": {"Latin": 1455, "Cyrillic": 30, "": 15}}


def report(bad: int = 0, kinds: dict[str, int] | None = None) -> ValidationReport:
    content = reports.validation(
        videos={"lines": 1200, "good": 1199, "frames": 90, "seconds": 3.0, "by_decoder": {"decord": 1199}, "megabytes": 0.1},
        pairs={"lines": 40, "good": 40, "by_split_and_kind": {"train": kinds, "all": kinds} if kinds else {}},
        quarantined={
            "records": bad,
            "fraction": bad / 1240,
            "allowed_fraction": 0.05,
            "by_reason": {"videos.jsonl": {"bad_json": bad}} if bad else {},
        },
        behaviour={"lines": 0, "good": 0, "by_kind": {}, "of_training": 0, "of_other_data": 0},
        queries_without_target={"count": 2 if bad else 0, "pairs_by_reason": {}, "queries": []},
        texts={"pairs": {"test": TEXTS}} if kinds else {},
    )
    del content["schema_version"]
    return ValidationReport.model_validate(content)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    kinds = {"text_to_video": 40, "all": 40}
    write_validation_page(tmp_path / "index.html", report(len(BAD), kinds), FINDINGS, BAD, "the data is not as expected")
    return tmp_path / "index.html"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 400)])
def test_what_fails_comes_first_with_its_lines_and_no_text_becomes_a_script(browser: Any, page: Path, scheme: str, width: int) -> None:
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.goto(page.as_uri())
    assert opened.title() == "Data: cannot be used"
    assert opened.locator(".lead").inner_text() == "The data is not as expected"
    assert opened.locator(".unmet h3").all_inner_texts() == [
        "There are pairs to test withfailed",
        "No kind is rarewarning",
        "No query is in two splitswarning",
        "A video has frameswarning",
    ]
    assert opened.locator(".unmet > p").all_inner_texts() == [
        "pairs.jsonl: missing: test. Expected: 1 to 50,000.",
        "pairs.jsonl: 0.4\u00a0% of the lines. Expected: 1 to 50,000.",
        "pairs.jsonl: 30 of 40 lines fail. Expected: 1 to 50,000.",
        "videos.jsonl: 1 of 1,200 lines fail. Expected: 1 to 50,000.",
    ]
    assert opened.locator(".unmet").nth(2).locator("tbody tr").count() == SHOWN_EXAMPLES
    assert opened.locator(".unmet").nth(3).locator("tbody td").all_inner_texts() == [HOSTILE, "0"]
    texts = opened.get_by_role("region", name="Texts by split").locator("tbody tr")
    assert texts.locator("th, td").all_inner_texts() == [
        *("Queries and targets", "test", "1,500", "7", "3"),
        "Latin 97\u00a0%, Cyrillic 2\u00a0%, no letters 1\u00a0%",
    ]
    assert "And 5 more." in opened.inner_text("main")
    assert "2 queries have no target left" in opened.inner_text("main")
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    found = Axe().run(opened).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
    opened.close()


def test_data_without_faults_is_said_to_be_so(tmp_path: Path) -> None:
    write_validation_page(tmp_path / "index.html", report(), [FINDINGS[1]], [], None)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<h1>The data can be used</h1>" in text
    assert "All 1 checks passed." in text
    for absent in ("Failures and warnings", "Records left out</h2>", "quarantine.jsonl"):
        assert absent not in text
    assert "No pairs are left." in text
    assert "There are no behaviour tests." in text
