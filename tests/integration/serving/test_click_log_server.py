"""The click log of a running server: what it loses when it is killed, and what the page logs."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml
from axe_playwright_python.sync_playwright import Axe

from reelnest.serving.clicks.click_log import ClickLog
from tests.integration.serving.served_corpus import Served
from tests.integration.serving.test_click_log import SESSION, SETTINGS, rows
from tests.integration.serving.test_server import SERIOUS, wait_for


@contextmanager
def logging_server(root: Path, **settings: Any) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server with a click log: its address and its process."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["serve"] |= {"click_log": "clicks", **settings}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    command = [str(Path(sys.executable).with_name("reelnest")), "serve", "--port", "0", "--index", "one"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split(" ")[0], process
        finally:
            process.kill()


def test_a_killed_server_loses_at_most_seconds_and_stores_only_what_the_table_has(copy: Served) -> None:
    private = {"User-Agent": "Agent Smith", "X-Forwarded-For": "203.0.113.7", "Cookie": "name=anna"}
    with logging_server(copy.root) as (address, process):
        asked = {"q": "a red ring", "k": "4", "session": SESSION}
        found = requests.get(f"{address}api/search", params=asked, headers=private, timeout=60).json()
        event = {"search": found["search"], "rank": 2, "kind": "click"}
        assert requests.post(f"{address}api/events", json=event, headers=private, timeout=60).status_code == 202
        for wrong in (
            {**event, "kind": "seen"},
            {**event, "position": "2"},
            {**event, "name": "anna"},
            {**event, "search": "x" * 2000},
            [],
            7,
        ):
            refused = requests.post(f"{address}api/events", json=wrong, timeout=60)
            assert (refused.status_code in (413, 422), "error" in refused.json()) == (True, True), wrong
        assert "search" not in requests.get(f"{address}api/search", params={"q": "no session"}, timeout=60).json()
        assert requests.get(f"{address}api/search", params={"q": "a", "session": "anna"}, timeout=60).status_code == 422
        time.sleep(2)
        process.send_signal(signal.SIGKILL)
    folder = copy.root / "clicks"
    written = b"".join(path.read_bytes() for path in folder.iterdir())
    assert not [word for word in ("Smith", "203.0.113.7", "127.0.0.1", "anna", "no session") if word.encode() in written]
    ClickLog(SETTINGS, folder, lambda: time.time() + 3600).flush()
    assert [row["item"] for row in rows(folder)] == [hit["video_id"] for hit in found["hits"]]
    assert [row["clicked"] for row in rows(folder)] == [False, True, False, False]


def test_a_stopped_server_loses_nothing(copy: Served) -> None:
    with logging_server(copy.root) as (address, process):
        asked = {"q": "a red ring", "session": SESSION}
        for k in range(1, 21):
            requests.get(f"{address}api/search", params={**asked, "k": k}, timeout=60).raise_for_status()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    ClickLog(SETTINGS, copy.root / "clicks", lambda: time.time() + 3600).flush()
    assert len(rows(copy.root / "clicks")) == sum(range(1, 21))


def test_a_server_without_a_click_log_logs_nothing(server: str) -> None:
    assert requests.get(f"{server}api/indexes", timeout=60).json()["click_log"] is False
    assert "search" not in requests.get(f"{server}api/search", params={"q": "a", "session": SESSION}, timeout=60).json()
    refused = requests.post(f"{server}api/events", json={"search": "1-0", "rank": 1, "kind": "click"}, timeout=60)
    assert (refused.status_code, "serve.click_log" in refused.json()["error"]) == (404, True)


def test_the_page_logs_clicks_and_thumbs_by_pointer_and_by_keyboard(copy: Served, browser: Any) -> None:
    with logging_server(copy.root) as (address, process):
        for width, scheme in ((400, "dark"), (1400, "light")):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.goto(f"{address}?q=red+ring")
            page.wait_for_selector(".results li:nth-child(12)")
            assert page.is_visible("#click-log")
            wait_for(page, "[...document.querySelectorAll('.clip video')].some((clip) => clip.currentTime > 0.1)")
            page.uncheck("#play")  # neither counts as a click
            page.click(".results li:nth-child(1) .clip", position={"x": 90, "y": 30})
            page.focus(".results li:nth-child(2) .up")
            page.keyboard.press("Enter")
            page.keyboard.press("Tab")
            page.keyboard.press("Space")  # changes to thumb down
            page.click(".results li:nth-child(3) .up")
            page.click(".results li:nth-child(4) .up")
            page.click(".results li:nth-child(4) .up")  # takes it back
            fifth = page.locator(".clip").nth(4)
            fifth.scroll_into_view_if_needed()
            wait_for(page, "document.querySelectorAll('.clip video')[4].readyState >= 2")  # its size is known now
            fifth.click(position={"x": 24, "y": fifth.bounding_box()["height"] - 48})  # the player's button
            wait_for(page, "document.querySelectorAll('.clip video')[4].played.length > 0")
            pressed = "[...document.querySelectorAll('.thumbs button')].map((button) => button.getAttribute('aria-pressed')).slice(0, 8)"
            assert page.evaluate(pressed) == ["false", "false", "false", "true", "true", "false", "false", "false"]
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            size = page.locator(".results li:nth-child(1) .up").bounding_box()
            assert min(size["width"], size["height"]) >= 44
            violations = [rule for rule in Axe().run(page).response["violations"] if rule["impact"] in SERIOUS]
            assert [(rule["id"], rule["nodes"][0]["html"]) for rule in violations] == []
            page.fill("#q", "blue bar")
            page.keyboard.press("Enter")
            wait_for(
                page, "document.querySelector('#status').textContent.includes('12 of 21 videos') && document.title.startsWith('blue bar')"
            )
            page.close()
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    ClickLog(SETTINGS, copy.root / "clicks", lambda: time.time() + 3600).flush()
    found = rows(copy.root / "clicks")
    marks = [(True, None), (False, -1), (True, 1), (False, None), (True, None)]
    for first in (0, 24):
        assert [(row["clicked"], row["thumb"]) for row in found[first : first + 5]] == marks
    assert [row["query"] for row in found[::12]] == ["red ring", "blue bar"] * 2
    assert [row["session"] for row in found[::12]] == [found[0]["session"]] * 2 + [found[-1]["session"]] * 2
    assert found[0]["session"] != found[-1]["session"]
