"""A search as people ask for it: words or a video in, videos with their scores and what each step took out."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reelnest.encoder.saved import SavedModel
from reelnest.errors import ModelError, QueryError
from reelnest.serving.index import SearchIndex
from reelnest.store.entries import Entry
from reelnest.video.decoder import Decoder, Limits

MOST_ANSWERS = 1000


@dataclass(frozen=True)
class Hit:
    """A video that was found."""

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
class Answers:
    """The hits, best first, and how they were found."""

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
        # Of its own: while a video of a stranger is being read, those who search with words go on.
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
        return self._encode(Entry("query", "", self._decoder.frames([file], self._model.preprocess)))

    def _encode(self, entry: Entry) -> NDArray[np.float32]:
        with self._lock:
            vector: NDArray[np.float32] = self._model.encode([entry], dim=self._model.dims[-1])[0]
        return vector


class Searcher:
    """An index and the model that made it."""

    def __init__(self, index: SearchIndex, model: OpenModel, *, shortlist: int, most_characters: int) -> None:
        """Raises ModelError where another model made the index."""
        if index.manifest.model_hash != model.hash:
            raise ModelError(
                f"{index.folder}: was made with the model {index.manifest.model_hash[:12]} ({index.manifest.model}), and this one is "
                f"{model.hash[:12]}. Vectors of two models cannot be compared: run `reelnest index` again with this model, or search with "
                "that one."
            )
        self.index, self.model = index, model
        self._shortlist, self._most_characters = shortlist, most_characters

    def words(self, text: str, k: int, *, dim: int | None = None, funnel: bool = False) -> Answers:
        """The best `k` videos for a text. Raises QueryError for an empty or endless one, and for a dim or `k` that cannot be."""
        if not text.strip():
            raise QueryError("The search is empty: type what you look for.")
        if len(text) > self._most_characters:
            raise QueryError(f"The search has {len(text):,} characters; at most {self._most_characters:,} are read. Shorten it.")
        # A lone surrogate can be typed on a command line, and no tokenizer takes it.
        text = text.encode("utf-8", "replace").decode("utf-8")
        return self._search(lambda: self.model.words(text), k, dim, funnel)

    def video(self, file: Path, k: int, *, dim: int | None = None, funnel: bool = False) -> Answers:
        """The best `k` videos for a video file. Raises VideoError for one that cannot be read, and QueryError."""
        return self._search(lambda: self.model.video(file), k, dim, funnel)

    def _search(self, encode: Callable[[], NDArray[np.float32]], k: int, dim: int | None, funnel: bool) -> Answers:
        if not 1 <= k <= MOST_ANSWERS:
            raise QueryError(f"k is {k}: ask for 1 to {MOST_ANSWERS} answers.")
        self.index.check_dim(dim)  # before anything is encoded
        started = time.perf_counter()
        vector = encode()
        encoded = time.perf_counter()
        found = self.index.search(vector, k, dim=dim, funnel=funnel, shortlist=self._shortlist)
        searched = time.perf_counter()
        rows, scores = found.ranking.indices[0].tolist(), found.ranking.scores[0].tolist()
        hits = [self._hit(place, row, score) for place, (row, score) in enumerate(zip(rows, scores, strict=True), start=1)]
        untrained = tuple(one for one in found.dims if one not in self.index.manifest.dims)
        return Answers(hits, found.dims, untrained, 1000 * (encoded - started), 1000 * (searched - encoded))

    def _hit(self, rank: int, row: int, score: float) -> Hit:
        video = self.index.video(row)
        title = video.fields.get("title") or video.fields.get("caption", "")
        return Hit(rank, score, video.video_id, title, video.path or video.images[0], len(video.images), video.fields)
