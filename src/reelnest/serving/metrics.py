"""Counts and times of requests and searches in the format of Prometheus, at `/metrics`."""

import time
from collections.abc import Collection, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reelnest.serving.searcher import Searcher, SearchResults

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Upper ends of the histograms' buckets."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The metrics of one server. Names follow https://prometheus.io/docs/practices/naming/."""

    def __init__(self, searchers: Mapping[str, Searcher]) -> None:
        registry = CollectorRegistry()
        self._registry, self._searchers = registry, searchers
        self.requests = Counter("reelnest_http_requests", "Requests with a response", ["method", "path", "status"], registry=registry)
        self.request_seconds = Histogram(
            "reelnest_http_request_seconds", "Time until the response", ["path"], registry=registry, buckets=SECONDS
        )
        self.in_progress = Gauge("reelnest_http_requests_in_progress", "Requests without a response yet", registry=registry)
        self._encode = Histogram("reelnest_encode_seconds", "Time to encode a query", ["index"], registry=registry, buckets=SECONDS)
        self._search = Histogram("reelnest_search_seconds", "Time to search an index", ["index"], registry=registry, buckets=SECONDS)
        self._videos = Gauge("reelnest_index_videos", "Videos of an index", ["index", "model_hash"], registry=registry)

    def add(self, index: str, results: SearchResults) -> None:
        """Adds the times of a search."""
        self._encode.labels(index).observe(results.encode_ms / 1000)
        self._search.labels(index).observe(results.search_ms / 1000)

    def response(self) -> Response:
        """Returns all metrics as a scraper reads them."""
        self._videos.clear()  # an index may have been replaced
        for name, searcher in self._searchers.items():
            self._videos.labels(name, searcher.manifest.model_hash).set(searcher.manifest.videos)
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


class Measured:
    """ASGI middleware that adds each request to the metrics.

    Paths outside `paths` count as one, and so do methods outside METHODS: scanners try thousands.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = scope["path"] if scope["path"] in self._paths else "other"
        method = scope["method"] if scope["method"] in METHODS else "other"
        started = time.perf_counter()
        try:
            with self._metrics.in_progress.track_inprogress():
                await self._app(scope, receive, send_and_note)
        finally:
            self._metrics.requests.labels(method, path, str(status)).inc()
            self._metrics.request_seconds.labels(path).observe(time.perf_counter() - started)
