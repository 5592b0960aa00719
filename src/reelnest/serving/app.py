"""The server: a search page, and the JSON API that the page uses.

GET  /api/indexes                          the indexes and their dims
GET  /api/search?q=…&index=…&dim=…&k=…     with `funnel=true`, `dim` gives a shortlist that the full width reranks; `where` is a filter
POST /api/search?index=…&dim=…&k=…         the same for a video, sent as the request's body
GET  /api/clip?index=…&id=…&frame=…        a video of an index by id, or a frame of a video that consists of images; supports HTTP ranges
GET  /api/health, /api/ready               the status and the version; whether all indexes can be searched
GET  /metrics                              counts and times for Prometheus
POST /api/events                           logs a click or a thumb on a result, if the server has a click log
POST /v1/embeddings                        vectors of texts and videos, in the form of OpenAI's API
GET  /docs                                 a page that describes the API, made from /api/openapi.json

An error returns {"error": "…"} with a status of 4xx or 5xx; under /v1, {"error": {"message": "…", "type": "…", "param": "…", "code": "…"}}.
"""

import logging
import mimetypes
import reprlib
import tempfile
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from reelnest.errors import QueryError, ReelnestError, VideoError
from reelnest.search.query_text import MAX_RESULTS
from reelnest.serving.bodies.clips import clip_response
from reelnest.serving.bodies.uploads import receive
from reelnest.serving.clicks.click_log import ClickLog
from reelnest.serving.clicks.events import Session, add_events, logged
from reelnest.serving.embeddings import add_embeddings
from reelnest.serving.guard import Access, CrossOrigin, Guard, error_response
from reelnest.serving.load_limit import LoadLimit
from reelnest.serving.metrics import Measured, Metrics
from reelnest.serving.searcher import Searcher, SearchResults

VERSION = installed_version("reelnest")
PAGE = Path(__file__).with_name("page")
PAGE_FILES = {"/": "page.html", "/docs": "docs.html"} | {f"/{name}": name for name in ("page.css", "page.js", "docs.js")}
PLAYED = ("video/", "image/")
"""Media types that are sent unchanged. All others become application/octet-stream, which a browser does not open."""

_QUOTED = reprlib.Repr()
_QUOTED.maxstring = _QUOTED.maxother = 100

log = logging.getLogger(__name__)

Text = Annotated[str, Query(description="The text to search for.")]
Index = Annotated[str | None, Query(description="A name from /api/indexes. Default: the first.")]
Dim = Annotated[int | None, Query(description="Dimensions to compare. Default: the full width.")]
Funnel = Annotated[bool, Query(description="Makes a shortlist with dim (default: the smallest), then ranks it with all dimensions.")]
IndexName = Annotated[str, Query(description="A name from /api/indexes.")]
VideoId = Annotated[str, Query(description="The id of a result.")]
Frame = Annotated[int, Query(ge=0, description="Which image, if the video consists of images.")]
Where = Annotated[str | None, Query(description='A filter over tags and text fields, such as: language == "en" and duration < 30')]
K = Annotated[int, Query(description=f"Number of results, 1 to {MAX_RESULTS}.")]


def create_app(searchers: Mapping[str, Searcher], access: Access, upload_megabytes: float = 64, clicks: ClickLog | None = None) -> ASGIApp:
    """Returns the ASGI application for indexes by name, for those whom `access` allows. Searchers may be replaced while it runs."""
    # FastAPI's own page of the API loads scripts from the network. `/docs` is a page of ours.
    app = FastAPI(title="reelnest", version=VERSION, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    metrics = Metrics(searchers)
    _add_errors(app)
    _add_status(app, searchers, metrics)
    for address, name in PAGE_FILES.items():
        app.add_api_route(address, _page(name), methods=["GET", "HEAD"], include_in_schema=False)

    def searcher(name: str | None) -> tuple[str, Searcher]:
        chosen = next(iter(searchers)) if name is None else name
        if chosen not in searchers:
            raise HTTPException(404, f"No index has this name. Indexes: {', '.join(searchers)}.")
        return chosen, searchers[chosen]

    @app.get("/api/indexes")
    def indexes() -> dict[str, Any]:
        """Lists the indexes: the model, the dims, the number of videos, and example searches."""
        described = [_describe(name, opened) for name, opened in searchers.items()]
        return {"indexes": described, "upload_megabytes": upload_megabytes, "click_log": clicks is not None}

    @app.get("/api/search")
    async def search(
        q: Text = "",
        index: Index = None,
        dim: Dim = None,
        funnel: Funnel = False,
        k: K = 12,
        where: Where = None,
        session: Session = None,
    ) -> JSONResponse:
        """Searches with a text. Returns the best videos with their scores, and the time that it took."""
        name, chosen = searcher(index)
        results = await chosen.words_async(q, k, dim=dim, funnel=funnel, where=where)
        metrics.add(name, results)
        content = _as_json(name, chosen, results) | logged(clicks, session, q, name, chosen.manifest.model_hash, results)
        return JSONResponse(content)  # FastAPI would look at each value of a dict first

    @app.post("/api/search")
    async def search_by_video(
        request: Request, index: Index = None, dim: Dim = None, funnel: Funnel = False, k: K = 12, where: Where = None
    ) -> dict[str, Any]:
        """Searches with a video. The body of the request is the bytes of a video file."""
        name, chosen = searcher(index)
        chosen.manifest.check_dim(dim)
        with tempfile.NamedTemporaryFile(prefix="reelnest-", suffix=".video") as file:
            await receive(request, file, upload_megabytes)
            path = Path(file.name)
            try:
                results = await run_in_threadpool(chosen.video, path, k, dim=dim, funnel=funnel, where=where)
            except VideoError as error:
                raise VideoError(error.reason, str(error).replace(path.name, "the uploaded file")) from None
        metrics.add(name, results)
        return _as_json(name, chosen, results)

    @app.api_route("/api/clip", methods=["GET", "HEAD"])
    def clip(request: Request, index: IndexName, id: VideoId, frame: Frame = 0) -> Response:
        """Sends the video file of a result, also if the result is a moment of it. Supports HTTP ranges."""
        _, chosen = searcher(index)
        try:
            files = chosen.files(id)
        except ReelnestError as error:  # an unknown id, a missing file, or a link to a file outside the folder
            raise HTTPException(404, str(error)) from None
        if frame >= len(files):
            raise HTTPException(404, f"The video has {len(files)} files.")
        kind = mimetypes.guess_type(files[frame].name)[0] or ""
        played = kind if kind.startswith(PLAYED) else "application/octet-stream"
        return clip_response(files[frame], played, request)

    add_embeddings(app, searchers, upload_megabytes)
    add_events(app, clicks)

    # The guard is outside, so that it also guards error responses. What it refuses is counted.
    guarded: ASGIApp = Guard(LoadLimit(app), access)
    if access.origins:
        guarded = CrossOrigin(guarded, access)
    return Measured(guarded, metrics, [route.path for route in app.routes if isinstance(route, Route)])


def _add_status(app: FastAPI, searchers: Mapping[str, Searcher], metrics: Metrics) -> None:
    @app.get("/api/health")
    async def health() -> dict[str, Any]:
        """Responds while the server is up: the status, the version, and the number of indexes."""
        return {"status": "ok", "version": VERSION, "indexes": len(searchers)}

    @app.get("/api/ready")
    def ready() -> dict[str, Any]:
        """Responds with 503 if an index cannot be searched, for example because its database is away."""
        for name, opened in searchers.items():
            try:
                opened.check()
            except ReelnestError as error:
                raise HTTPException(503, f"{name}: {error}") from None
        return {"status": "ready"}

    @app.api_route("/metrics", methods=["GET", "HEAD"], include_in_schema=False)
    def show_metrics() -> Response:
        return metrics.response()

    for address, endpoint in (("/api/health", health), ("/api/ready", ready)):  # load balancers ask with HEAD too
        app.add_api_route(address, endpoint, methods=["HEAD"], include_in_schema=False)


def _page(name: str) -> Any:
    def page() -> FileResponse:
        return FileResponse(PAGE / name, headers={"Cache-Control": "no-cache"})

    return page


def _describe(name: str, searcher: Searcher) -> dict[str, Any]:
    manifest = searcher.manifest
    return {
        "name": name,
        "videos": manifest.videos,
        "dims": manifest.dims,
        "model": manifest.model,
        "model_name": manifest.model.replace("../", ""),
        "model_hash": manifest.model_hash,
        "base": Path(manifest.base).name,
        "storage": manifest.storage,
        "tags": manifest.tags,
        "data_hash": manifest.data_hash,
        "graph_dim": manifest.graph_dim,
        "shortlist": searcher.shortlist,
        "examples": searcher.examples,
    }


def _as_json(name: str, searcher: Searcher, results: SearchResults) -> dict[str, Any]:
    return {"index": name, "videos": searcher.manifest.videos, **vars(results), "hits": [vars(hit) for hit in results.hits]}


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return error_response(request.url.path, error.status_code, str(error.detail), error.headers)

    @app.exception_handler(ClientDisconnect)
    async def aborted_upload(request: Request, _: ClientDisconnect) -> Response:
        return error_response(request.url.path, 400, "The upload ended early.")

    @app.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        received = f" (found {_QUOTED.repr(first['input'])})" if "input" in first and first["type"] != "missing" else ""
        name, *path = first["loc"][1:] or first["loc"]  # after "query" or "body", the name
        place = name + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
        return error_response(request.url.path, 422, f"{place}: {first['msg']}{received}.", param=None if name == "body" else name)

    @app.exception_handler(ReelnestError)
    async def search_error(request: Request, error: ReelnestError) -> Response:
        is_client_error = isinstance(error, QueryError | VideoError)
        if not is_client_error:
            log.error("%s", error)
        return error_response(request.url.path, 422 if is_client_error else 500, str(error))

    @app.exception_handler(Exception)
    async def unexpected_error(request: Request, error: Exception) -> Response:
        return error_response(request.url.path, 500, f"The server failed ({type(error).__name__}). See its log.")
