"""`POST /api/events`: clicks and thumbs on the results of a logged search."""

import io
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from reelnest.serving.bodies.uploads import receive
from reelnest.serving.clicks.click_log import MOST_LOGGED, ClickLog
from reelnest.serving.clicks.journals import Kind
from reelnest.serving.searcher import SearchResults

LARGEST_EVENT_MEGABYTES = 0.001

Session = Annotated[
    str | None,
    Query(
        pattern="^[0-9a-f]{16,64}$",
        description="A random number of the client's session, 16 to 64 hexadecimal digits. With it, the search is logged if the server has"
        " a click log, and the response has the key search, which /api/events expects.",
    ),
]


class Event(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    search: Annotated[str, Field(max_length=40)]
    """The `search` of the response that had the result."""
    rank: Annotated[int, Field(ge=1, le=MOST_LOGGED)]
    """The result's, from 1."""
    kind: Kind
    """`click`, a thumb `up` or `down`, or `none` to take the thumb back."""


def add_events(app: FastAPI, clicks: ClickLog | None) -> None:
    """Adds the route. Without a click log, it responds with 404."""
    body = {"requestBody": {"content": {"application/json": {"schema": Event.model_json_schema()}}}}

    @app.post(
        "/api/events",
        openapi_extra=body,
        status_code=202,
    )
    async def events(request: Request) -> dict[str, Any]:
        """Logs a click or a thumb on a result.

        The body is JSON: {"search": "…", "rank": 1, "kind": "click"}. The kind is click, up, down or none.
        """
        if clicks is None:
            raise HTTPException(404, "This server has no click log. Set serve.click_log in its params.yaml.")
        received = io.BytesIO()
        await receive(request, received, LARGEST_EVENT_MEGABYTES)
        try:
            event = Event.model_validate_json(received.getvalue())
        except ValidationError as error:
            raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_url=False)]) from None
        clicks.add_mark(event.search, event.rank, event.kind)
        return {"status": "accepted"}


def logged(clicks: ClickLog | None, session: str | None, query: str, index: str, model_hash: str, results: SearchResults) -> dict[str, Any]:
    """Logs a search if the client takes part, and returns what its response has for that."""
    if clicks is None or session is None or not results.hits:
        return {}
    return {"search": clicks.add_search(session, query, [hit.video_id for hit in results.hits], index, model_hash)}
