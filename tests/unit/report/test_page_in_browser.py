"""The evaluation's page as Chromium shows it: at a phone's width, in the dark, to a screen reader, without scripts, to a hostile text."""

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from reelnest.report.evaluation_page import write_evaluation_page
from tests.unit.report.evaluations import confused, full_evaluation, query, report, video_query

HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"> https://example.com/"
PHONE, DESK = {"width": 400, "height": 800}, {"width": 1400, "height": 900}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with all sections, one text of which is hostile and one without a place to break."""
    content = full_evaluation()
    content["model"]["base"] = "org/" + "very-long-name" * 8
    long_name = (("title", HOSTILE), ("caption", "word" * 60))
    gallery = [
        query(HOSTILE, 3, long_name, ("query words: 2-3",)),
        query("a dog on a hill", 1, slices=("query words: 4-7",)),
        query("a red star rising", 2, slices=("query words: 4-7",)),
        video_query(),
    ]
    path = tmp_path_factory.mktemp("page") / "evaluation.html"
    write_evaluation_page(path, report(content), gallery, [confused()])
    return path.as_uri()


class Seen:
    """A page, and what went on while it was open."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(address)

    def shown(self) -> list[str]:
        """The queries that are not hidden."""
        return [found.inner_text().split(" ")[0] for found in self.page.locator("article.query:visible h3").all()]


@pytest.fixture
def seen(browser: Any, address: str) -> Iterator[Seen]:
    page = browser.new_page(viewport=DESK)
    yield Seen(page, address)
    page.close()


def test_nothing_is_asked_of_the_network_and_no_text_becomes_a_script(seen: Seen, address: str) -> None:
    assert [url for url in seen.requests if not url.startswith("data:")] == [address]
    assert seen.page.title() == "Evaluation. Recommended: 64 dims, int8"
    assert seen.complaints == []


@pytest.mark.parametrize(("scheme", "viewport"), [("light", DESK), ("dark", PHONE)])
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_screen(
    browser: Any, address: str, scheme: str, viewport: dict[str, int]
) -> None:
    page = browser.new_page(viewport=viewport, color_scheme=scheme)
    page.goto(address)
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 27)"
    assert dark == (scheme == "dark")
    page.close()


def test_filters_leave_the_searches_that_fit(seen: Seen) -> None:
    page, status = seen.page, seen.page.locator("form output")
    assert seen.shown() == ["<script>document.title", "a", "a", "clip-7"]
    page.get_by_label("First result").select_option("only misses")
    assert seen.shown() == ["<script>document.title", "a"]
    assert status.inner_text() == "2 of 4 shown"
    page.get_by_role("searchbox", name="Words").fill("STAR red")
    assert status.inner_text() == "1 of 4 shown"
    page.get_by_role("searchbox", name="Words").fill("")
    page.get_by_label("First result").select_option("relevant or not")
    page.get_by_label("Pairs").select_option("video→text")
    assert seen.shown() == ["clip-7"]
    page.get_by_label("Pairs").select_option("all kinds")
    page.locator("select[name=slice]").select_option("query words: 4-7")
    assert status.inner_text() == "2 of 4 shown"


def test_a_table_is_sorted_from_the_keyboard(seen: Seen) -> None:
    table = seen.page.locator("table.sortable").first
    heading = table.get_by_role("columnheader", name="Searches a second")

    def names() -> list[str]:
        return [name.split("recommended")[0].split("best")[0].strip() for name in table.locator("tbody th").all_inner_texts()]

    before = names()
    heading.get_by_role("button").focus()
    seen.page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert names()[-1] == "64 binary"
    seen.page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert names()[0] == "64 binary"
    assert sorted(names()) == sorted(before)


def test_without_scripts_everything_is_there(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False, viewport=DESK)
    page = context.new_page()
    page.goto(address)
    assert page.locator("article.query:visible").count() == 4
    assert page.locator("form.filters:visible").count() == 0
    assert page.locator("th button").count() == 0
    context.close()
