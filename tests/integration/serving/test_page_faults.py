"""The search page with responses that its scripts do not expect, in headless Chromium."""

from typing import Any

import pytest


def test_tags_may_have_the_names_of_javascripts_own_properties(server: str, browser: Any) -> None:
    page = browser.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))

    def changed(route: Any) -> None:
        about = route.fetch().json()
        for index in about["indexes"]:
            index["tags"] = {"keyword": {"constructor": 2, "__proto__": 1}, "constructor": {"x": 3}, "__proto__": {"toString": 4}}
        route.fulfill(json=about)

    page.route("**/api/indexes", changed)
    page.goto(f"{server}?q=a+red+ring&tag.keyword=constructor")
    page.wait_for_selector("#filters select")
    shown = page.locator("#filters select").all_inner_texts()
    assert shown == ["any\nconstructor (2)\n__proto__ (1)", "any\nx (3)", "any\ntoString (4)"]
    assert page.locator("select[data-tag='keyword']").input_value() == '"constructor"'
    assert faults == []
    page.close()


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ({"status": 500, "json": {"error": "The server failed (KeyError). See its log."}}, "The server failed (KeyError). See its log."),
        ({"status": 502, "body": "<h1>Bad Gateway</h1>"}, "The server does not respond. Check that it is running."),
    ],
)
@pytest.mark.parametrize(("path", "place"), [("indexes", "#status"), ("search*", ".error:visible")])
def test_the_page_shows_an_error_of_the_api_or_of_a_proxy(
    server: str, browser: Any, path: str, place: str, answer: dict[str, Any], shown: str
) -> None:
    page = browser.new_page()
    page.route(f"**/api/{path}", lambda route: route.fulfill(**answer))
    page.goto(f"{server}?q=a+red+ring")
    page.locator(place, has_text=shown).wait_for()
    page.close()
