"""`reelnest serve` with a real process, real requests and headless Chromium."""

import http.client
import json
import time
import urllib.parse
from typing import Any

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe

from reelnest.commands import search as stage
from reelnest.commands.search_inputs import Query
from tests.integration.serving.served_corpus import HOSTILE, PARAMS, Served
from tests.support.offline_pages import SCREENS, opened_offline

SERIOUS = ("serious", "critical")


def ask(address: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
    """Status, headers and body, which is JSON unless it is a file."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = requests.request("GET" if body is None else "POST", address, data=body, headers=named, timeout=60)
    content = response.json() if response.headers.get("content-type") == "application/json" else response.content
    return response.status_code, response.headers, content


def wait_for(page: Any, condition: str) -> None:
    """Polls, because Playwright's wait makes the page evaluate strings, which our policy forbids."""
    deadline = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, (condition, page.inner_text("body"))
        page.wait_for_timeout(50)


def query(**values: object) -> str:
    return urllib.parse.urlencode(values)


def test_the_api_lists_its_indexes_and_searches_each(server: str) -> None:
    assert ask(f"{server}api/health")[2]["status"] == "ok"
    indexes = ask(f"{server}api/indexes")[2]["indexes"]
    assert [(index["name"], index["videos"], index["dims"]) for index in indexes] == [("one", 21, [16, 64, 128]), ("two", 21, [32, 128])]
    for name, dim, funnel in (("one", 16, False), ("two", 32, True), ("one", 100, False)):
        status, _, results = ask(f"{server}api/search?{query(q='a red circle', index=name, dim=dim, funnel=funnel, k=4)}")
        assert status == 200
        assert (results["index"], [hit["rank"] for hit in results["hits"]]) == (name, [1, 2, 3, 4])
        assert results["dims"] == ([32, 128] if funnel else [dim])
        assert results["untrained"] == ([100] if dim == 100 else [])


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("api/search", 422, "empty"),
        (f"api/search?{query(q='я' * 100_000)}", 422, "100,000 characters"),
        ("api/search?q=a&dim=129", 422, "16, 64, 128"),
        ("api/search?q=a&dim=NaN", 422, "dim"),
        ("api/search?q=a&k=1e9", 422, "k"),
        ("api/search?q=a&k=5000", 422, "1 to 1000"),
        ("api/search?q=a&index=three", 404, "one, two"),
        (f"api/search?{query(q='a', where='number < ' + '9' * 400)}", 422, "not a text in quotes or a number"),
        (f"api/search?{query(q='a', where='not ' * 900 + 'number < 9')}", 422, "inside 50 other conditions"),
        (f"api/search?{query(q='a', where='color == 1')}", 422, "'color' is not a field"),
        ("api/clip?index=one&id=../../params.yaml", 404, "no video of this id"),
        ("api/clip?index=one&id=videos/01.mp4", 404, "no video of this id"),
        ("api/clip?index=one&id=clip/01&frame=7", 404, "1 files"),
        ("data/videos/01.mp4", 404, "Not Found"),
        ("..%2f..%2fparams.yaml", 404, "Not Found"),
    ],
)
def test_an_invalid_request_returns_its_error_as_json(server: str, path: str, status: int, words: str) -> None:
    received, _, body = ask(server + path)
    assert received == status
    assert words in body["error"]


def test_clips_are_sent_in_the_ranges_that_players_ask_for(server: str, served: Served) -> None:
    file = (served.data / "videos/01.mp4").read_bytes()
    address = f"{server}api/clip?{query(index='one', id='clip/01')}"
    status, headers, content = ask(address)
    assert (status, headers["content-type"], headers["accept-ranges"], content) == (200, "video/mp4", "bytes", file)
    status, headers, content = ask(address, Range="bytes=100-199")
    assert (status, headers["content-range"], content) == (206, f"bytes 100-199/{len(file)}", file[100:200])
    assert ask(address, Range=f"bytes={len(file)}-")[0] == 416
    assert ask(f"{server}api/clip?{query(index='one', id='images', frame=2)}")[1]["content-type"] == "image/png"


@pytest.mark.parametrize("path", ["", "page.js", "docs", "api/health", "api/ready", "metrics"])
def test_head_has_the_status_of_get(server: str, path: str) -> None:
    answer = requests.head(server + path, timeout=60)
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_clip_that_became_a_link_out_of_the_data_folder_is_not_sent(server: str, served: Served) -> None:
    clip, aside = served.data / "videos/19.mp4", served.root / "aside.mp4"
    clip.rename(aside)
    try:
        clip.symlink_to("/etc/hostname")
        status, _, body = ask(f"{server}api/clip?{query(index='one', id='clip/19')}")
        assert (status, "outside the folder" in body["error"]) == (404, True)
        clip.unlink()
        assert ask(f"{server}api/clip?{query(index='one', id='clip/19')}")[0] == 404
    finally:
        aside.rename(clip)


def test_a_query_video_is_searched_and_an_invalid_one_is_refused(server: str, served: Served) -> None:
    status, _, results = ask(f"{server}api/search?{query(dim=16, k=3)}", (served.data / "videos/07.mp4").read_bytes())
    assert (status, len(results["hits"])) == (200, 3)
    for body, words in (
        (b"words, no video", "not a readable video"),
        (b"", "no body"),
        ((served.data / "videos/07.mp4").read_bytes()[:900], ""),
    ):
        status, _, results = ask(f"{server}api/search", body)
        assert status == 422
        assert words in results["error"]
        assert "reelnest-" not in results["error"]
    assert ask(f"{server}api/search?q=still+here")[0] == 200


def test_a_video_that_is_too_large_is_refused_before_it_is_sent(server: str) -> None:
    place = urllib.parse.urlsplit(server)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    connection.putrequest("POST", "/api/search")
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, "the limit is 64 MB" in json.loads(response.read())["error"]) == (413, True)
    connection.close()


def test_only_the_server_s_own_page_may_send_requests(server: str) -> None:
    for headers in (
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ):
        status, received, body = ask(f"{server}api/indexes", **headers)
        assert status == 403
        assert "error" in body
        assert "access-control-allow-origin" not in received
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    for headers in ({"Host": "localhost:1234"}, {"Host": "[::1]"}, {"Origin": server.rstrip("/")}, link, own):
        status, received, _ = ask(f"{server}api/indexes", **headers)
        assert status == 200
        assert "default-src 'none'" in received["content-security-policy"]
        assert received["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1400, "light")])
def test_the_page_searches_two_sides_and_is_accessible(server: str, browser: Any, width: int, scheme: Any) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith((server, "data:", "blob:")) else faults.append(request.url))
    held: list[Any] = []
    page.route("**/api/indexes", lambda route: held.append(route))
    page.goto(server)
    wait_for(page, "document.activeElement.id === 'q'")  # the field has the focus
    page.keyboard.type("red ")
    held[0].continue_()
    wait_for(page, "document.querySelector('.side')")
    page.keyboard.type("circle")  # text typed before the page was ready is not lost
    page.keyboard.press("Enter")
    wait_for(page, "document.querySelector('#status').textContent.includes('12 of 21 videos')")  # written after the results
    assert page.locator(".results li").count() == 12
    page.check("#compare")
    wait_for(page, "document.querySelectorAll('.side').length === 2 && document.querySelectorAll('.results li').length === 24")
    right = page.locator(".side").nth(1)
    right.locator(".dim").select_option("32")
    right.locator(".funnel").check()
    wait_for(page, "document.querySelectorAll('.timing')[1].textContent.includes('shortlist with 32 dimensions, reranked with 128')")
    assert "Scores: cosine similarity" in page.inner_text(".timing")
    wait_for(page, "document.querySelector('#status').textContent.includes('on the right too')")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    violations = [rule for rule in Axe().run(page).response["violations"] if rule["impact"] in SERIOUS]
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in violations] == []

    second = browser.new_page()
    second.goto(page.url)  # the address contains the search
    wait_for(second, "document.querySelectorAll('.results li').length === 24")
    ids = "[...document.querySelectorAll('.results li')].map((box) => box.dataset.id)"
    wait_for(second, "document.querySelector('#status').textContent.includes('on the right too')")
    assert second.evaluate(ids) == page.evaluate(ids)
    second.close()
    page.go_back()
    page.go_back()
    page.go_back()
    wait_for(page, "document.querySelectorAll('.side').length === 1")
    assert page.input_value("#q") == "red circle"
    assert faults == []
    page.close()


def test_the_api_and_the_command_search_what_a_filter_selects(server: str, served: Served) -> None:
    condition = 'colour == "blue" and number < 9'
    everything = ask(f"{server}api/search?{query(q='a red circle', k=21)}")[2]["hits"]
    expected = [hit["video_id"] for hit in everything if hit["video_id"] in ("clip/05", "clip/06", "clip/07", "clip/08")]
    found = ask(f"{server}api/search?{query(q='a red circle', where=condition)}")[2]["hits"]
    assert [hit["video_id"] for hit in found] == expected
    assert found[0]["tags"] == {"colour": "blue", 'its "shape"': found[0]["title"].split()[1], "number": str(int(expected[0][-2:]))}
    video = (served.data / "videos/07.mp4").read_bytes()
    by_video = ask(f"{server}api/search?{query(where=condition)}", video)[2]["hits"]
    assert {hit["video_id"] for hit in by_video} == set(expected)
    printed = json.loads(
        stage.run(served.workspace, PARAMS, str(served.root / "one"), Query("a red circle", where=condition), as_json=True)
    )
    assert [hit["video_id"] for hit in printed["hits"]] == expected


def test_tags_are_chosen_on_the_page(server: str, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.goto(f"{server}?{query(q='red circle')}")
    page.wait_for_selector(".results li:nth-child(12)")
    colour, shape = (page.locator(f"select[data-tag='{name}']") for name in ("colour", 'its "shape"'))
    assert colour.inner_text().split("\n") == ["any", "blue (5)", "green (5)", "pink (5)", "red (5)"]
    colour.select_option(label="blue (5)")
    wait_for(page, "document.querySelector('#status').textContent.startsWith('5 of 21 videos')")
    shape.select_option(label="bar (4)")
    wait_for(page, "document.querySelector('#status').textContent.startsWith('1 of 21 videos')")
    assert "colour: blue" in page.inner_text(".tags")
    again = browser.new_page()
    again.goto(page.url)  # the address contains the filter
    wait_for(again, "document.querySelector('#status').textContent.startsWith('1 of 21 videos')")
    again.fill("#where", "number == 0 or")
    again.keyboard.press("Enter")
    again.wait_for_selector(".error:visible")
    again.fill("#where", "number > 18")
    again.keyboard.press("Enter")
    wait_for(again, "document.querySelector('#status').textContent === 'No video satisfies the filter.'")
    again.close()
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    page.go_back()
    wait_for(page, "document.querySelector('#status').textContent.startsWith('5 of 21 videos')")
    assert shape.input_value() == ""
    page.close()


@pytest.mark.parametrize(("scheme", "width"), SCREENS)
def test_the_page_works_without_a_network(server: str, browser: Any, scheme: str, width: int) -> None:
    with opened_offline(browser, f"{server}?{query(q='red circle')}", scheme, width) as opened:
        opened.page.wait_for_selector(".results li:nth-child(12)")
        assert opened.page.evaluate("document.documentElement.scrollWidth") == width
        assert opened.faults() == []


def test_the_page_starts_with_examples_and_names_the_model(server: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(server)
    page.wait_for_selector("#examples button")
    examples = page.locator("#examples button").all_inner_texts()
    assert (len(examples), examples[1]) == (6, "red ring")  # titles, because this corpus has no pairs
    assert page.inner_text(".about") == "Index: one. Model: models/one (base: tiny). 21 videos."
    assert page.inner_text(".funnel-note") == "Funnel: finds the best 100 videos with 16 dimensions, then ranks those with all 128."
    page.click("text=Search >> nth=-1")
    wait_for(page, "document.querySelector('#status').textContent.startsWith('The search is empty. Type what the video shows')")
    page.fill("#q", "!!!")
    page.keyboard.press("Enter")
    page.wait_for_selector(".error:visible")
    assert "“!!!” has no letters or digits." in page.inner_text(".error:visible")
    page.fill("#q", "")
    page.keyboard.press("Enter")
    page.click("#examples button >> nth=1")
    page.wait_for_selector(".results li:nth-child(12)")
    assert page.input_value("#q") == "red ring"
    assert not page.is_visible("#examples")
    page.close()


@pytest.mark.parametrize(("scheme", "width"), SCREENS)
def test_the_api_has_a_page_that_works_without_a_network(server: str, browser: Any, scheme: str, width: int) -> None:
    with opened_offline(browser, f"{server}docs", scheme, width) as opened:
        opened.page.wait_for_selector("#operations section:nth-child(5)")
        shown = opened.page.inner_text("#operations")
        for words in ("GET /api/search", "POST /api/search", "GET /api/clip", "The text to search for.", "Number of results, 1 to 1000."):
            assert words in shown
        assert opened.page.evaluate("document.documentElement.scrollWidth") == width
        assert opened.faults() == []


def test_long_tags_fit_the_page_and_arabic_is_shown_from_the_right(server: str, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900})

    def changed(route: Any) -> None:
        about = route.fetch().json()
        for index in about["indexes"]:
            index["tags"] = {"country-of-origin": {"x" * 400: 1, "y": 2}, "n" * 200: {"z": 3}}
            index["examples"] = ["مظلة (closed) 12"]
        route.fulfill(json=about)

    page.route("**/api/indexes", changed)
    page.goto(server)
    page.wait_for_selector("#examples button")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.get_attribute("#where", "placeholder") == 'tags["country-of-origin"] != "…"'
    word, number = page.evaluate("""() => {
      const text = document.querySelector("#examples button").firstChild, range = document.createRange();
      return [[0, 4], [14, 16]].map(([from, to]) => {
        range.setStart(text, from);
        range.setEnd(text, to);
        return range.getBoundingClientRect().left;
      });
    }""")
    assert number < word
    page.close()


def test_titles_are_text_and_clips_play(server: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{server}?{query(q=HOSTILE, k=24)}")
    page.wait_for_selector(".results li:nth-child(21)")
    assert page.locator(".title", has_text=HOSTILE).count() == 1
    assert page.input_value("#q") == HOSTILE
    assert page.evaluate("window.harmed") is None
    wait_for(page, "[...document.querySelectorAll('.clip video')].some((clip) => clip.currentTime > 0.1)")
    page.uncheck("#play")
    assert page.evaluate("[...document.querySelectorAll('.clip video')].every((clip) => clip.paused)")
    wait_for(page, "document.querySelector('.clip img').naturalWidth > 0")
    page.close()


def test_a_video_is_chosen_on_the_page(server: str, browser: Any, served: Served) -> None:
    page = browser.new_page()
    page.goto(server)
    wait_for(page, "document.querySelector('.side')")  # before that the page does not handle a file
    page.set_input_files("#file", str(served.data / "videos/notes.mp4"))
    page.wait_for_selector(".error:visible")
    assert "the uploaded file" in page.inner_text(".error:visible")
    page.set_input_files("#file", str(served.data / "videos/07.mp4"))
    page.wait_for_selector(".results li:nth-child(12)")
    assert page.inner_text("#query-video-name") == "07.mp4"
    page.click("#clear")
    wait_for(page, "!document.querySelector('.results li')")
    page.close()


def test_the_description_of_the_api_has_each_parameter_and_no_markup_that_its_page_would_show(server: str) -> None:
    operations = [operation for methods in ask(f"{server}api/openapi.json")[2]["paths"].values() for operation in methods.values()]
    described = [*operations, *(parameter for operation in operations for parameter in operation.get("parameters", []))]
    assert [entry for entry in described if not entry.get("description") or "`" in entry["description"]] == []
