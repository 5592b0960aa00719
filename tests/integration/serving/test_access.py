"""The server's API key, allowed origins, readiness and metrics, with a real process."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from openai import AuthenticationError, OpenAI
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.serving.conftest import serving
from tests.integration.serving.served_corpus import Served

KEY = "a key, with spaces"


class Site(BaseHTTPRequestHandler):
    """Another site, which has an empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>a page</title>")

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[int]:
    """The port of another site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield other.server_port
        other.shutdown()


@pytest.fixture(scope="module")
def guarded(served: Served, site: int) -> Iterator[str]:
    with serving(served, "--index", "one", "--allow-origin", f"http://LOCALHOST:{site}/", REELNEST_API_KEY=KEY) as address:
        yield address


def get(address: str, **headers: str | bytes) -> requests.Response:
    return requests.get(address, headers=headers, timeout=60)


def test_nothing_but_health_is_answered_without_the_key(guarded: str) -> None:
    token = f"Bearer {KEY}".encode()
    for path in ("", "api/indexes", "api/search?q=a", "api/clip?index=one&id=clip/01", "v1/models", "metrics", "api/openapi.json", "none"):
        refused = get(guarded + path)
        assert (refused.status_code, "API key" in refused.text) == (401, True)
        assert refused.headers["www-authenticate"].startswith("Basic")
        for wrong in (b"Bearer a key", b"Bearer", b"Basic !!!", b"Basic a2V5", b"Token " + KEY.encode()):
            assert get(guarded + path, Authorization=wrong).status_code == 401
        assert get(guarded + path, Authorization=token).status_code == (404 if path == "none" else 200)
        assert requests.get(guarded + path, auth=(b"anybody", KEY.encode()), timeout=60).status_code == (404 if path == "none" else 200)
    assert get(f"{guarded}api/health").json()["status"] == "ok"
    assert get(f"{guarded}api/ready").json() == {"status": "ready"}


def test_openais_client_sends_the_key(guarded: str) -> None:
    with OpenAI(base_url=f"{guarded}v1", api_key=KEY) as client:
        assert len(client.embeddings.create(model="one", input="a red ring").data[0].embedding) == 128
    with OpenAI(base_url=f"{guarded}v1", api_key="wrong") as client, pytest.raises(AuthenticationError, match="API key"):
        client.models.list()


def test_pages_of_an_allowed_site_may_send_requests_and_no_others(guarded: str, site: int, browser: Any) -> None:
    script = """async ([address, key]) => {
        const headers = { Authorization: `Basic ${btoa(`anybody:${key}`)}` };
        try { return (await fetch(`${address}api/search?q=a`, { headers })).status; } catch (error) { return error.name; }
    }"""
    page = browser.new_page()
    statuses = []
    for host in ("localhost", "127.0.0.1"):
        page.goto(f"http://{host}:{site}/")
        statuses += [page.evaluate(script, [guarded, key]) for key in (KEY, "wrong")]
    page.close()
    assert statuses == [200, 401, "TypeError", "TypeError"]


def test_a_preflight_of_another_site_gets_json(guarded: str, site: int) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-stainless-lang"}
    for origin, status in ((f"http://localhost:{site}", 200), ("https://evil.example", 400)):
        answer = requests.options(f"{guarded}api/search", headers={"Origin": origin, **asked}, timeout=60)
        assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (status, origin if status == 200 else None)
    assert "origin" in answer.json()["error"]


def test_metrics_count_what_was_asked_for(guarded: str) -> None:
    token = f"Bearer {KEY}"

    def samples() -> Counter[tuple[str, ...]]:
        text = get(f"{guarded}metrics", Authorization=token).text
        assert "wp-login" not in text
        read = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return Counter({(sample.name, *sorted(sample.labels.values())): sample.value for sample in read})

    for method in ("MADEUP", "AGAIN"):
        requests.request(method, f"{guarded}metrics", headers={"Authorization": token}, timeout=60)
    assert samples()["reelnest_http_requests_total", "/metrics", "405", "other"] == 2
    before = samples()
    for query in ("a red ring", "a blue ring", "?"):
        get(f"{guarded}api/search?q={query}", Authorization=token)
    get(f"{guarded}wp-login.php", Authorization=token)
    get(f"{guarded}api/search?q=a")
    after = samples()
    added = after - before
    requests_of = "reelnest_http_requests_total"
    assert added[requests_of, "/api/search", "200", "GET"] == 2
    assert added[requests_of, "/api/search", "422", "GET"] == 1
    assert added[requests_of, "/api/search", "401", "GET"] == 1
    assert added[requests_of, "404", "GET", "other"] == 1
    assert added["reelnest_search_seconds_count", "one"] == added["reelnest_encode_seconds_count", "one"] == 2
    assert added["reelnest_http_request_seconds_count", "/api/search"] == 4
    assert after["reelnest_http_requests_in_progress",] == 1  # that for the metrics
    assert [value for name, value in after.items() if name[0] == "reelnest_index_videos"] == [21]
