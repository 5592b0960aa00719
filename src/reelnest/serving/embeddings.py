"""`POST /v1/embeddings` and `GET /v1/models` in the form of OpenAI's API, so that its clients work. An input can also be a video.

An item of `input` is a text, or a list of content parts as chat messages have them: `{"type": "text", "text": …}` and
`{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,…"}}`. Only data URLs: the server fetches nothing. `input_type`, which
OpenAI's API lacks, is `query` or `document` and selects the model's instruction; by default a text is a query and a video a document.
"""

import base64
import tempfile
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, ValidationError
from pydantic_core import PydanticCustomError, from_json
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from reelnest.errors import QueryError, VideoError
from reelnest.serving.bodies.uploads import MOST_IN_MEMORY, receive
from reelnest.serving.guard import error_response
from reelnest.serving.searcher import OpenModel, Searcher
from reelnest.store.entries import Entry, Role
from reelnest.video.frames import Frames

MOST_INPUTS = 2048
"""As OpenAI's."""
VIDEOS_AT_ONCE = 32
"""Inputs of a request with videos that are decoded together. The frames of one take megabytes, a few times as much as its file."""
MOST_PARTS = 64
"""Content parts of one input."""
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


def _parts(given: object) -> object:
    """Returns the content parts of an input, which may be a text."""
    if isinstance(given, str):
        return [{"type": "text", "text": given}]
    if isinstance(given, int) or (isinstance(given, list) and given and isinstance(given[0], int)):
        raise PydanticCustomError("token_ids", "token ids are not supported; expected a text")
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_PARTS:
        raise PydanticCustomError("parts", f"expected a text, or a list of 1 to {MOST_PARTS} content parts")
    return given


def _inputs(given: object) -> object:
    """Returns the inputs of a request, which may be a text."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        raise PydanticCustomError("inputs", "expected a text or a list")
    if not 1 <= len(given) <= MOST_INPUTS:
        raise PydanticCustomError("count", f"it has {len(given):,} items; expected 1 to {MOST_INPUTS:,}")
    return given


# The first fault ends the check of a list: a body of megabytes may have a million faults, whose descriptions take gigabytes.
Input = Annotated[list[Content], FailFast(), BeforeValidator(_parts, json_schema_input_type=str | list[Content])]
Inputs = Annotated[list[Input], FailFast(), BeforeValidator(_inputs, json_schema_input_type=str | list[str | list[Content]])]


class EmbeddingsRequest(BaseModel):
    """The body of a request. Unknown fields, such as `user`, are ignored."""

    model_config = ConfigDict(extra="ignore")

    input: Inputs
    model: str | None = None
    dimensions: Annotated[int, Field(strict=True)] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    input_type: Literal["query", "document"] | None = None


def add_embeddings(app: FastAPI, searchers: Mapping[str, Searcher], megabytes: float) -> None:
    """Adds the routes. A model is named as the index that uses it, or as `/v1/models` lists it; by default it is the first index's."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """Lists the models, one for each index, in the form of OpenAI's API."""
        return {"object": "list", "data": [_model(name) for name in searchers]}

    @app.get("/v1/models/{name}")
    async def one_model(request: Request, name: Annotated[str, Path(description="A name from /v1/models.")]) -> JSONResponse:
        """Returns one of the models."""
        return JSONResponse(_model(name)) if name in searchers else _unknown_model(request, name, searchers)

    @app.post(
        "/v1/embeddings",
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": EmbeddingsRequest.model_json_schema()}}}},
    )
    async def embeddings(request: Request) -> JSONResponse:
        """Returns vectors of unit length of texts and videos, in the form of OpenAI's API.

        The body is JSON: {"input": ["a red ring"], "model": "…", "dimensions": 64}; only input is required.
        """
        with tempfile.SpooledTemporaryFile(MOST_IN_MEMORY, prefix="reelnest-") as file:
            await receive(request, file, megabytes * BASE64_GROWTH)
            file.seek(0)
            body = _request(file.read())
        name = next(iter(searchers)) if body.model is None else body.model
        if name not in searchers:
            return _unknown_model(request, name, searchers)
        searcher = searchers[name]  # another one may take its place while videos are decoded
        try:
            dim = searcher.manifest.check_dim(body.dimensions)
        except QueryError as error:
            raise _fault(str(error).removesuffix("."), "dimensions") from None
        vectors = _shortened(await _encoded(searcher, body), dim)
        data = [{"object": "embedding", "index": index, "embedding": _written(vector, body)} for index, vector in enumerate(vectors)]
        content = {"object": "list", "data": data, "model": name, "usage": {"prompt_tokens": 0, "total_tokens": 0}}
        return JSONResponse(content)  # FastAPI would look at each number of a dict first


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "reelnest"}


def _unknown_model(request: Request, name: str, searchers: Iterable[str]) -> JSONResponse:
    message = f"'{name[:100]}' is not a model of this server. Models: {', '.join(searchers)}."
    return error_response(request.url.path, 404, message, param="model", code="model_not_found")


def _request(content: bytes) -> EmbeddingsRequest:
    """Returns the request in a body. Raises RequestValidationError that names what cannot be used."""
    try:
        given = from_json(content)
        if not isinstance(given, dict):
            raise _fault('expected an object, such as {"input": "a red ring"}')
        return EmbeddingsRequest.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_url=False)]) from None
    except ValueError as error:
        raise _fault(f"Invalid JSON: {error}") from None


def _fault(message: str, *place: str | int) -> RequestValidationError:
    return RequestValidationError([{"type": "value_error", "loc": ("body", *place), "msg": message}])


async def _encoded(searcher: Searcher, body: EmbeddingsRequest) -> NDArray[np.float32]:
    """Returns the vectors of the inputs: inputs x width. Raises RequestValidationError for inputs that cannot be encoded."""
    if not any(isinstance(content, VideoContent) for contents in body.input for content in contents):
        return await searcher.model.encode_async(_entries(searcher, body, range(len(body.input))))
    vectors = []
    for first in range(0, len(body.input), VIDEOS_AT_ONCE):
        numbers = range(first, min(first + VIDEOS_AT_ONCE, len(body.input)))
        entries = await run_in_threadpool(_entries, searcher, body, numbers)  # it decodes videos
        vectors.append(await searcher.model.encode_async(entries))
    return np.concatenate(vectors)


def _entries(searcher: Searcher, body: EmbeddingsRequest, numbers: range) -> list[Entry]:
    """Returns what the model encodes for the inputs with these numbers. Raises RequestValidationError for inputs that cannot be encoded."""
    entries = []
    for number in numbers:
        contents = body.input[number]
        try:
            entries.append(_entry(searcher, contents, body.input_type))
        except (QueryError, VideoError) as error:
            raise _fault(str(error).removesuffix("."), "input", number) from None
    return entries


def _shortened(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Returns the first `dim` numbers of vectors at unit length, (vectors, dim)."""
    prefixes = vectors[:, :dim]
    shortened: NDArray[np.float32] = prefixes / np.linalg.norm(prefixes, axis=1, keepdims=True)
    return shortened


def _entry(searcher: Searcher, contents: list[Content], input_type: str | None) -> Entry:
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
    except ValueError as error:  # also for characters beyond ASCII
        raise QueryError(f"the video's url is not valid base64 ({error}).") from None
    return model.frames(video)


def _written(vector: NDArray[np.float32], body: EmbeddingsRequest) -> list[float] | str:
    if body.encoding_format == "base64":  # little-endian float32, as OpenAI's clients read it
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
