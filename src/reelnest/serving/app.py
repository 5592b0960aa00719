"""The server: a page to search with, and the JSON API that the page itself uses.

GET  /api/indexes                          what can be searched, with which dims
GET  /api/search?q=…&index=…&dim=…&k=…     `funnel=true`: a shortlist at `dim`, ordered anew at the full width
POST /api/search?index=…&dim=…&k=…         the same for a video, which is the request's body
GET  /api/clip?index=…&id=…&frame=…        a video of an index by its id, or a frame of one that is kept as images; answers HTTP ranges
GET  /api/health

Whatever goes wrong is answered with {"error": "…"} and a status of 4xx or 5xx.
"""

import asyncio
import logging
import mimetypes
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp

import reelnest
from reelnest.errors import QueryError, ReelnestError, VideoError
from reelnest.serving.guard import LOCAL_HOSTS, Guard
from reelnest.serving.searcher import MAX_RESULTS, Searcher, SearchResults

PAGE = Path(__file__).with_name("page")
PAGE_FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
PLAYED = ("video/", "image/")
"""Kinds of files that are sent as what they are; any other is sent as bytes that a browser will not open."""
UPLOAD_TIMEOUT_SECONDS = 120
"""To send a video in: one who sends a byte a minute is not waited for."""

log = logging.getLogger(__name__)

Index = Annotated[str | None, Query(description="A name of /api/indexes; the first where it is left out.")]
Dim = Annotated[int | None, Query(description="Numbers of each vector that are compared; the full width where it is left out.")]
Funnel = Annotated[bool, Query(description="A shortlist at `dim` (the smallest where it is left out), ordered anew at the full width.")]
K = Annotated[int, Query(description=f"SearchResults, 1 to {MAX_RESULTS}.")]


def create_app(searchers: Mapping[str, Searcher], hosts: Collection[str] = LOCAL_HOSTS, upload_megabytes: float = 64) -> ASGIApp:
    """The ASGI application over these indexes, by name. `hosts` are the host names that it answers to."""
    # The generated API pages would load scripts from the network; the description itself stays.
    app = FastAPI(title="reelnest", version=reelnest.__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    _add_errors(app)
    for address, name in PAGE_FILES.items():
        app.add_api_route(address, _page(name), include_in_schema=False)

    def searcher(name: str | None) -> tuple[str, Searcher]:
        chosen = next(iter(searchers)) if name is None else name
        if chosen not in searchers:
            raise HTTPException(404, f"There is no index of this name; there are: {', '.join(searchers)}.")
        return chosen, searchers[chosen]

    @app.get("/api/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "version": reelnest.__version__, "indexes": len(searchers)}

    @app.get("/api/indexes")
    def indexes() -> dict[str, Any]:
        return {"indexes": [_describe(name, opened) for name, opened in searchers.items()], "upload_megabytes": upload_megabytes}

    @app.get("/api/search")
    def search(q: str = "", index: Index = None, dim: Dim = None, funnel: Funnel = False, k: K = 12) -> dict[str, Any]:
        name, chosen = searcher(index)
        return _as_json(name, chosen, chosen.words(q, k, dim=dim, funnel=funnel))

    @app.post("/api/search")
    async def search_by_video(request: Request, index: Index = None, dim: Dim = None, funnel: Funnel = False, k: K = 12) -> dict[str, Any]:
        name, chosen = searcher(index)
        chosen.manifest.check_dim(dim)
        with tempfile.NamedTemporaryFile(prefix="reelnest-", suffix=".video") as file:
            try:
                async with asyncio.timeout(UPLOAD_TIMEOUT_SECONDS):
                    await _receive(request, file, upload_megabytes)
            except TimeoutError:
                raise HTTPException(408, f"The video did not arrive within {UPLOAD_TIMEOUT_SECONDS} s.") from None
            path = Path(file.name)
            try:
                results = await run_in_threadpool(chosen.video, path, k, dim=dim, funnel=funnel)
            except VideoError as error:
                raise VideoError(error.reason, str(error).replace(path.name, "the uploaded file")) from None
        return _as_json(name, chosen, results)

    @app.api_route("/api/clip", methods=["GET", "HEAD"])
    def clip(index: str, id: str, frame: Annotated[int, Query(ge=0)] = 0) -> FileResponse:
        _, chosen = searcher(index)
        try:
            files = chosen.files(id)
        except ReelnestError as error:  # an id that is none, a file that is gone, or one that became a link out of the folder
            raise HTTPException(404, str(error)) from None
        if frame >= len(files):
            raise HTTPException(404, f"The video has {len(files)} files.")
        kind = mimetypes.guess_type(files[frame].name)[0] or ""
        return FileResponse(files[frame], media_type=kind if kind.startswith(PLAYED) else "application/octet-stream")

    return Guard(app, hosts)  # outside of all else, so that answers to errors are guarded too


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
        "model_hash": manifest.model_hash,
        "base": Path(manifest.base).name,
        "storage": manifest.storage,
        "data_hash": manifest.data_hash,
        "graph_dim": manifest.graph_dim,
    }


def _as_json(name: str, searcher: Searcher, results: SearchResults) -> dict[str, Any]:
    return {"index": name, "videos": searcher.manifest.videos, **asdict(results)}


async def _receive(request: Request, file: Any, megabytes: float) -> None:
    """Raises HTTPException for a body that is empty or too large, as soon as that is seen."""
    most, size = int(megabytes * 1e6), 0
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise HTTPException(413, f"The video has {int(announced) / 1e6:.1f} MB; at most {megabytes:g} MB are read.")
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise HTTPException(413, f"The video has more than the {megabytes:g} MB that are read.")
        await run_in_threadpool(file.write, chunk)
    if not size:
        raise HTTPException(422, "The request has no body: send a video file's bytes.")
    file.flush()


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def misunderstood(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        given = "" if first["type"] == "missing" else f" (found {str(first.get('input'))[:100]!r})"
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}{given}."}, status_code=422)

    @app.exception_handler(ReelnestError)
    async def unanswerable(_: Request, error: ReelnestError) -> Response:
        asked_wrongly = isinstance(error, QueryError | VideoError)
        if not asked_wrongly:
            log.error("%s", error)
        return JSONResponse({"error": str(error)}, status_code=422 if asked_wrongly else 500)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": f"The server failed ({type(error).__name__}); its log says more."}, status_code=500)
