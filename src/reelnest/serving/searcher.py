"""A search with a text or a video. It returns ranked videos with scores and timings."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from reelnest.encoder.saved import SavedModel
from reelnest.encoder.video_reading import VideoSource
from reelnest.engines.engine import Engine, Hits, Manifest, SearchesAsync, base_folder, name_of, shown
from reelnest.errors import QueryError
from reelnest.records.formats import Video, video_files
from reelnest.search.batching import Batched
from reelnest.search.filters import Filter, parse_filter
from reelnest.search.query_text import check_count, check_query_text
from reelnest.serving.examples import example_searches
from reelnest.settings import Precision
from reelnest.store.entries import Entry
from reelnest.video.frames import Frames

SHOWN_CHARACTERS = 1000
"""A longer text of a video is cut in results, so that one hit does not make a response of megabytes."""


@dataclass(frozen=True)
class Hit:
    """One result."""

    rank: int
    score: float
    """Cosine."""
    id: str
    """The row of the index: the video_id, or for a window of a long video `video_id#t=start,end`."""
    video_id: str
    start: float | None
    """The moment, in seconds of the file at `path`; None for a whole file."""
    end: float | None
    """None is the end of the file."""
    title: str
    """The video's title, or its caption if it has no title, or else an empty string."""
    path: str
    """The video file or its first frame, relative to the data folder."""
    images: int
    """The number of frames if the video consists of images; 0 for a video file."""
    fields: Mapping[str, str]
    """The text fields, each cut after SHOWN_CHARACTERS."""
    tags: Mapping[str, str]


@dataclass(frozen=True)
class SearchResults:
    """The hits, best first, and how they were found."""

    hits: Sequence[Hit]
    dims: tuple[int, ...]
    """The dim of an exact search, or the dims of a funnel. The scores are of the last one."""
    untrained: tuple[int, ...]
    """The dims that the model was not trained for."""
    encode_ms: float
    search_ms: float


class OpenModel:
    """A loaded model that its indexes and several threads share. One thread at a time encodes, the queries of all that wait."""

    def __init__(self, model: SavedModel, hash: str, precision: Precision) -> None:
        self.hash, self.precision = hash, precision
        self._model = model
        self._encoder: Batched[Entry, NDArray[np.float32]] = Batched(
            lambda entries: list(model.encode(entries, dim=model.dims[-1])), "encoder"
        )

    def close(self) -> None:
        """Ends the decoder process and the encoder's thread."""
        self._encoder.close()
        self._model.close()

    def video(self, file: Path) -> NDArray[np.float32]:
        """Returns the vector of a query video, (width,). Raises VideoError if it cannot be read."""
        return self.encode([Entry("query", "", self.frames(file))])[0]

    def frames(self, video: VideoSource) -> Frames:
        """Returns the sampled frames of a video, decoded while others encode. Raises VideoError if it cannot be read."""
        return self._model.videos.frames(video)

    def encode(self, entries: Sequence[Entry]) -> NDArray[np.float32]:
        """Returns the vectors of entries, (entries, width). Raises what the model raises for the first of them that it cannot encode."""
        return np.stack([vector.result() for vector in [self._encoder.submit(entry) for entry in entries]])

    async def encode_async(self, entries: Sequence[Entry]) -> NDArray[np.float32]:
        """Encodes like `encode`, in an event loop."""
        return np.stack(await asyncio.gather(*map(self._encoder.result, entries)))


class _Search(NamedTuple):
    """A search whose values were checked before anything is encoded."""

    k: int
    dim: int
    shortlist: int | None
    condition: Filter | None


class Searcher:
    """An index and the model that made it."""

    def __init__(self, engine: Engine, location: str, model: OpenModel, *, shortlist: int, most_characters: int) -> None:
        """Raises ModelError if another model made the index, DataError if there is no index."""
        self._engine, self.model = engine, model
        self.name = name_of(location)
        engine.manifest.check_model(model.hash, shown(location))
        self.shortlist = shortlist
        self._data = Path(os.path.normpath(base_folder(location) / self.manifest.data))
        self._most_characters = most_characters
        self.examples = example_searches(self._data)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the opened version, which another one with the same model may replace."""
        return self._engine.manifest

    def close(self) -> None:
        """Closes the index, but not the model, which others may share."""
        self._engine.close()

    def check(self) -> None:
        """Raises DataError if the index cannot be searched."""
        self._engine.get([])

    def words(self, text: str, k: int, *, dim: int | None = None, funnel: bool = False, where: str | None = None) -> SearchResults:
        """Returns the best `k` videos for a text, of those that satisfy the filter `where` (see `reelnest.search.filters`).

        Raises QueryError for a text, a dim, a `k` or a filter that cannot be used.
        """
        search, entry = self._checked(k, dim, funnel, where), self._entry(text)
        started = time.perf_counter()
        vector = self.model.encode([entry])[0]
        return self._rank(search, vector, started, time.perf_counter())

    async def words_async(
        self, text: str, k: int, *, dim: int | None = None, funnel: bool = False, where: str | None = None
    ) -> SearchResults:
        """Searches like `words`, in an event loop.

        No thread waits for the encoder, so that texts that arrive together are encoded together.
        """
        search, entry = self._checked(k, dim, funnel, where), self._entry(text)
        started = time.perf_counter()
        (vector,) = await self.model.encode_async([entry])
        encoded = time.perf_counter()
        if isinstance(self._engine, SearchesAsync):
            return self._results(await self._engine.search_async(vector[: self.manifest.width], **search._asdict()), started, encoded)
        return await run_in_threadpool(self._rank, search, vector, started, encoded)

    def check_text(self, text: str) -> None:
        """Raises QueryError for a text that cannot be searched for."""
        check_query_text(text, self._most_characters)

    def video(self, file: Path, k: int, *, dim: int | None = None, funnel: bool = False, where: str | None = None) -> SearchResults:
        """Returns the best `k` videos for a video file, like `words`. Raises VideoError if it cannot be read."""
        search = self._checked(k, dim, funnel, where)
        started = time.perf_counter()
        vector = self.model.video(file)
        return self._rank(search, vector, started, time.perf_counter())

    def files(self, id: str) -> list[Path]:
        """Returns the files of a hit in the data folder. Raises QueryError for an unknown id, VideoError for a missing file."""
        return video_files(self._engine.get([id])[0], self._data)

    def _entry(self, text: str) -> Entry:
        self.check_text(text)
        # Python's texts may contain a lone surrogate, which tokenizers do not accept.
        return Entry("query", text.encode("utf-8", "replace").decode("utf-8"), None)

    def _checked(self, k: int, dim: int | None, funnel: bool, where: str | None) -> _Search:
        check_count(k)
        condition = None if where is None or not where.strip() else parse_filter(where, self.manifest.tags)
        if funnel and dim is None:
            dim = self.manifest.dims[0]
        dim = self.manifest.check_dim(dim)
        if funnel and self.manifest.has_signs:
            raise QueryError("This index stores signs, whose search always makes a shortlist. Search without a funnel.")
        return _Search(k, dim, self.shortlist if funnel or self.manifest.has_signs else None, condition)

    def _rank(self, search: _Search, vector: NDArray[np.float32], started: float, encoded: float) -> SearchResults:
        return self._results(self._engine.search(vector[: self.manifest.width], **search._asdict()), started, encoded)

    def _results(self, ranked: Hits, started: float, encoded: float) -> SearchResults:
        searched = time.perf_counter()
        videos = self._engine.get(ranked.ids)
        hits = [_hit(rank, video, score) for rank, (video, score) in enumerate(zip(videos, ranked.scores, strict=True), start=1)]
        untrained = tuple(used for used in ranked.dims if used not in self.manifest.dims)
        return SearchResults(hits, ranked.dims, untrained, 1000 * (encoded - started), 1000 * (searched - encoded))


def _hit(rank: int, video: Video, score: float) -> Hit:
    title = video.fields.get("title") or video.fields.get("caption", "")
    fields = {name: _cut(text) for name, text in video.fields.items()}
    start, end = (None, None) if video.segment is None else (video.segment.start, video.segment.end)
    about = (_cut(title), video.path or video.images[0], len(video.images), fields, video.tags)
    return Hit(rank, score, video.video_id, video.source, start, end, *about)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
