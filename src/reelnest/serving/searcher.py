"""A search: a text or a video in, ranked videos with their scores and timings out."""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reelnest.encoder.saved import SavedModel
from reelnest.engines.engine import Engine
from reelnest.errors import ModelError, QueryError
from reelnest.records.formats import Video, video_files
from reelnest.store.entries import Entry
from reelnest.video.decoder import Decoder, Limits

MAX_RESULTS = 1000


@dataclass(frozen=True)
class Hit:
    """One result."""

    rank: int
    score: float
    """Cosine."""
    video_id: str
    title: str
    """Its title or else its caption; empty where it has neither."""
    path: str
    """Under the data folder: its file, or the first of its frames."""
    images: int
    """Frames that stand for it where it is no video file."""
    fields: Mapping[str, str]


@dataclass(frozen=True)
class SearchResults:
    """The hits, best first, and how the search was done."""

    hits: Sequence[Hit]
    dims: tuple[int, ...]
    """One, or those of the funnel, of which the last gave the scores."""
    untrained: tuple[int, ...]
    """Those of `dims` that the model was not trained for."""
    encode_ms: float
    search_ms: float


class OpenModel:
    """A loaded model, shared by the indexes that it made, and by threads: a tokenizer must not be used by two at once."""

    def __init__(self, model: SavedModel, hash: str, limits: Limits) -> None:
        self.hash = hash
        self._model = model
        self._lock = threading.Lock()
        # A decoder of its own: text searches go on while an uploaded video is decoded.
        self._decoder = Decoder(limits)

    def close(self) -> None:
        """Ends the process that decodes."""
        self._decoder.close()
        self._model.close()

    def words(self, text: str) -> NDArray[np.float32]:
        """The vector of a search, (width,)."""
        return self._encode(Entry("query", text, None))

    def video(self, file: Path) -> NDArray[np.float32]:
        """The vector of a video that is searched with, (width,). Raises VideoError for a file that is none."""
        return self._encode(Entry("query", "", self._decoder.frames([file], self._model.frame_settings)))

    def _encode(self, entry: Entry) -> NDArray[np.float32]:
        with self._lock:
            vector: NDArray[np.float32] = self._model.encode([entry], dim=self._model.dims[-1])[0]
        return vector


class Searcher:
    """An index and the model that made it."""

    def __init__(self, engine: Engine, place: Path, model: OpenModel, *, shortlist: int, most_characters: int) -> None:
        """`place` is where the index is. Raises ModelError where another model made the index, DataError where there is none."""
        self.manifest, self.place, self.model = engine.manifest, place, model
        if self.manifest.model_hash != model.hash:
            raise ModelError(
                f"{place}: this index was made with the model {self.manifest.model_hash[:12]} ({self.manifest.model}), not with"
                f" {model.hash[:12]}. Vectors of two models cannot be compared. Run `reelnest index` again, or search with the other model."
            )
        self._engine = engine
        self._data = Path(os.path.normpath(place.resolve() / self.manifest.data))
        self._shortlist, self._most_characters = shortlist, most_characters

    def words(self, text: str, k: int, *, dim: int | None = None, funnel: bool = False) -> SearchResults:
        """The best `k` videos for a text. Raises QueryError for an empty or endless one, and for a dim or `k` that cannot be."""
        if not text.strip():
            raise QueryError("The search is empty. Type what you are looking for.")
        if len(text) > self._most_characters:
            raise QueryError(f"The search has {len(text):,} characters; at most {self._most_characters:,} are read. Shorten it.")
        # A lone surrogate can be typed on a command line, and no tokenizer takes it.
        text = text.encode("utf-8", "replace").decode("utf-8")
        return self._search(lambda: self.model.words(text), k, dim, funnel)

    def video(self, file: Path, k: int, *, dim: int | None = None, funnel: bool = False) -> SearchResults:
        """The best `k` videos for a video file. Raises VideoError for one that cannot be read, and QueryError."""
        return self._search(lambda: self.model.video(file), k, dim, funnel)

    def files(self, video_id: str) -> list[Path]:
        """The files of a video of this index, under its data folder. Raises QueryError for an unknown id, VideoError for a lost file."""
        return video_files(self._engine.get([video_id])[0], self._data)

    def _search(self, encode: Callable[[], NDArray[np.float32]], k: int, dim: int | None, funnel: bool) -> SearchResults:
        if not 1 <= k <= MAX_RESULTS:
            raise QueryError(f"k is {k}: ask for 1 to {MAX_RESULTS} results.")
        if funnel and dim is None:
            dim = self.manifest.dims[0]
        dim = self.manifest.check_dim(dim)  # before anything is encoded
        started = time.perf_counter()
        vector = encode()
        encoded = time.perf_counter()
        ranked = self._engine.search(vector, k, dim=dim, shortlist=self._shortlist if funnel else None)
        searched = time.perf_counter()
        videos = self._engine.get(ranked.ids)
        hits = [_hit(rank, video, score) for rank, (video, score) in enumerate(zip(videos, ranked.scores, strict=True), start=1)]
        untrained = tuple(used for used in ranked.dims if used not in self.manifest.dims)
        return SearchResults(hits, ranked.dims, untrained, 1000 * (encoded - started), 1000 * (searched - encoded))


def _hit(rank: int, video: Video, score: float) -> Hit:
    title = video.fields.get("title") or video.fields.get("caption", "")
    return Hit(rank, score, video.video_id, title, video.path or video.images[0], len(video.images), video.fields)
