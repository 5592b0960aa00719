"""`POST /v1/embeddings` and `GET /v1/models` in the form of OpenAI's API, so that its clients work. An input can also be a video.

An item of `input` is a text, or a list of content parts as chat messages have them: `{"type": "text", "text": …}` and
`{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,…"}}`. Only data URLs: the server fetches nothing. `input_type`, which
OpenAI's API lacks, is `query` or `document` and selects the model's instruction; by default a text is a query and a video a document.
"""

import base64
import binascii
import io
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from reelnest.errors import QueryError, VideoError
from reelnest.serving.bodies.uploads import receive
from reelnest.serving.searcher import OpenModel, Searcher
from reelnest.store.entries import Entry, Role
from reelnest.video.frames import Frames

MOST_INPUTS = 2048
"""As OpenAI's."""
BASE64_GROWTH = 4 / 3


class Address(BaseModel):
    """The address of a content part."""

    url: str


class TextContent(BaseModel):
    """A text."""

    type: Literal["text"]
    text: str


class VideoContent(BaseModel):
    """A video file as a data URL."""

    type: Literal["video_url"]
    video_url: Address


Content = Annotated[TextContent | VideoContent, Field(discriminator="type")]
Input = str | list[Content]


class EmbeddingsRequest(BaseModel):
    """The body of a request. Unknown fields, such as `user`, are ignored."""

    model_config = ConfigDict(extra="ignore")

    input: str | list[Input]
    model: str | None = None
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] = "float"
    input_type: Literal["query", "document"] | None = None


def add_embeddings(app: FastAPI, searchers: Mapping[str, Searcher], megabytes: float) -> None:
    """Adds the routes. A model is named as the index that uses it, or as `/v1/models` lists it; by default it is the first index's."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """Lists the models, one for each index, in the form of OpenAI's API."""
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "reelnest"} for name in searchers]}

    @app.post(
        "/v1/embeddings",
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": EmbeddingsRequest.model_json_schema()}}}},
    )
    async def embeddings(request: Request) -> JSONResponse:
        """Returns vectors of unit length of texts and videos, in the form of OpenAI's API."""
        received = io.BytesIO()
        await receive(request, received, megabytes * BASE64_GROWTH)
        try:
            body = EmbeddingsRequest.model_validate_json(received.getvalue())
        except ValidationError as error:
            raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_url=False)]) from None
        name = next(iter(searchers)) if body.model is None else body.model
        if name not in searchers:
            raise QueryError(f"model '{name}': this server has {', '.join(searchers)}.")
        inputs: list[Input] = [body.input] if isinstance(body.input, str) else list(body.input)
        dim = searchers[name].manifest.check_dim(body.dimensions)
        read = partial(_entries, searchers[name], inputs, body.input_type)
        entries = read() if all(isinstance(given, str) for given in inputs) else await run_in_threadpool(read)  # it may decode videos
        vectors = _shortened(await searchers[name].model.encode_async(entries), dim)
        data = [{"object": "embedding", "index": index, "embedding": _written(vector, body)} for index, vector in enumerate(vectors)]
        content = {"object": "list", "data": data, "model": name, "usage": {"prompt_tokens": 0, "total_tokens": 0}}
        return JSONResponse(content)  # FastAPI would look at each number of a dict first


def _entries(searcher: Searcher, inputs: list[Input], input_type: str | None) -> list[Entry]:
    """What the model encodes for a request. Raises QueryError for inputs that cannot be encoded."""
    if not 1 <= len(inputs) <= MOST_INPUTS:
        raise QueryError(f"input has {len(inputs):,} items; expected 1 to {MOST_INPUTS:,}.")
    entries = []
    for number, given in enumerate(inputs):
        try:
            entries.append(_entry(searcher, given, input_type))
        except (QueryError, VideoError) as error:
            raise QueryError(f"input[{number}]: {error}") from None
    return entries


def _shortened(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """The first `dim` numbers of vectors at unit length, (vectors, dim)."""
    prefixes = vectors[:, :dim]
    shortened: NDArray[np.float32] = prefixes / np.linalg.norm(prefixes, axis=1, keepdims=True)
    return shortened


def _entry(searcher: Searcher, given: Input, input_type: str | None) -> Entry:
    contents = [TextContent(type="text", text=given)] if isinstance(given, str) else given
    texts = [content.text for content in contents if isinstance(content, TextContent)]
    videos = [content for content in contents if isinstance(content, VideoContent)]
    if len(videos) > 1:
        raise QueryError(f"it has {len(videos)} videos; expected at most one.")
    role: Role = "target" if input_type == "document" or (input_type is None and videos) else "query"
    text = "\n".join(texts)
    if not videos or text:
        searcher.check_text(text)
    return Entry(role, text, _frames(searcher.model, videos[0].video_url.url) if videos else None)


def _frames(model: OpenModel, url: str) -> Frames:
    head, comma, content = url.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise QueryError("the video's url is not a data URL. Expected data:video/mp4;base64,… since this server fetches nothing.")
    try:
        video = base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise QueryError(f"the video's url is not valid base64 ({error}).") from None
    return model.frames(video)


def _written(vector: NDArray[np.float32], body: EmbeddingsRequest) -> list[float] | str:
    if body.encoding_format == "base64":  # little-endian float32, as OpenAI's clients read it
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
