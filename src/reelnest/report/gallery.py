"""Example searches with their relevant item and their results, and the videos that the model confuses with others."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reelnest.evaluation.evaluation import Evaluation, Retrieved
from reelnest.store.prepared import Prepared
from reelnest.video.patches import from_patches

TOP = 3
"""Results of each query on the page."""
FRAMES = 4
"""Frames of each video: enough to see motion, and few enough for a page with a hundred videos."""
HEIGHT = 112
"""Most pixels of a frame; larger frames are scaled down."""
CONFUSED_VIDEOS = 6
CASES = 3
"""Searches of each confused video."""
LONGEST_TEXT = 2000
"""Characters; the rest of a longer text is cut off."""


@dataclass(frozen=True, eq=False)
class GalleryItem:
    """A text or a video on the page."""

    text: str
    """The text itself, or the video's id."""
    fields: tuple[tuple[str, str], ...] = ()
    """The text fields of a video that the encoder read, as (name, text)."""
    frames: NDArray[np.uint8] | None = None  # (at most FRAMES, height, width, 3), in order of time; None for a text


@dataclass(frozen=True, eq=False)
class GalleryResult:
    """One of a query's best results."""

    item: GalleryItem
    score: float
    """Cosine at the full width."""
    grade: float
    """0 if it is not relevant."""


@dataclass(frozen=True, eq=False)
class GalleryQuery:
    """A query, a relevant item, and its TOP best results at the full width."""

    pair_kind: str
    query: GalleryItem
    is_hard: bool
    """Chosen for its rank; the others are drawn at random."""
    ranks: tuple[tuple[int, int], ...]
    """(dim, rank of its best relevant item), by rising dim."""
    relevant: GalleryItem
    """The relevant item with the best rank."""
    relevant_count: int
    results: tuple[GalleryResult, ...]
    slices: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """The rank at the full width."""
        return self.ranks[-1][1]


@dataclass(frozen=True, eq=False)
class ConfusedVideo:
    """A video that ranks first for queries to which it is not relevant."""

    video: GalleryItem
    queries: int
    """Number of these queries."""
    cases: tuple[tuple[GalleryItem, GalleryItem], ...]
    """(query, relevant item) for some of these queries."""


Slices = Mapping[str, Sequence[tuple[str, ...]]]
"""By pair kind, the names of the slices that each query belongs to, in the order of the set's queries."""


def choose_gallery(prepared: Prepared, evaluation: Evaluation, count: int, slices: Slices | None = None) -> list[GalleryQuery]:
    """Returns up to `count` queries, equally many of each pair kind: half are the hardest ones, half are drawn at random.

    The draw depends on the queries' texts alone, so that pages of two models can be compared. The hardest of each kind come first.
    """
    chosen = []
    kinds = len(evaluation.retrieved)
    for number, retrieved in enumerate(evaluation.retrieved):
        of_kind = count // kinds + (number < count % kinds)
        chosen += _choose(prepared, _Reader(prepared), evaluation, retrieved, of_kind, (slices or {}).get(retrieved.searched.pair_kind))
    return chosen


def confused_videos(prepared: Prepared, evaluation: Evaluation, count: int) -> list[ConfusedVideo]:
    """Returns the videos that most often rank first at the full width for queries to which they are not relevant.

    Each does so at least twice; at most `count` videos, and at most CONFUSED_VIDEOS.
    """
    wrong: dict[int, list[tuple[int, int]]] = defaultdict(list)  # video → (query, relevant item)
    for retrieved in evaluation.retrieved:
        searched = retrieved.searched
        if searched.target_kind == "video":
            for query, results in zip(searched.queries.tolist(), retrieved.items, strict=True):
                right = searched.qrels[query]
                if len(results) and int(results[0]) not in right:
                    wrong[int(results[0])].append((query, _first_right(results, right)))
    read = _Reader(prepared)
    most = sorted(wrong, key=lambda video: (-len(wrong[video]), video))[: min(count, CONFUSED_VIDEOS)]
    return [
        ConfusedVideo(read(video), len(wrong[video]), tuple((read(query), read(relevant)) for query, relevant in wrong[video][:CASES]))
        for video in most
        if len(wrong[video]) > 1
    ]


def _choose(
    prepared: Prepared,
    read: Callable[[int], GalleryItem],
    evaluation: Evaluation,
    retrieved: Retrieved,
    count: int,
    slices: Sequence[tuple[str, ...]] | None,
) -> list[GalleryQuery]:
    searched = retrieved.searched
    of_kind = [of_dim for of_dim in evaluation.by_query if of_dim.searched.pair_kind == searched.pair_kind]
    by_dim = {of_dim.dim: of_dim.best_ranks for of_dim in of_kind if of_dim.best_ranks is not None}
    ranks = by_dim[evaluation.dims[-1]]
    keys = [prepared.item(int(query)).key for query in searched.queries]
    by_chance = sorted(range(len(keys)), key=lambda row: hashlib.sha256(keys[row].encode()).digest())
    hardest = sorted((row for row in by_chance if ranks[row] > 1), key=lambda row: -ranks[row])[: (count + 1) // 2]
    others = [row for row in by_chance if row not in hardest][: count - len(hardest)]

    def gallery_query(row: int) -> GalleryQuery:
        query = int(searched.queries[row])
        right = searched.qrels[query]
        items, scores = retrieved.items[row], retrieved.scores[row]
        return GalleryQuery(
            searched.pair_kind,
            read(query),
            row in hardest,
            tuple((dim, int(by_dim[dim][row])) for dim in evaluation.dims),
            read(_first_right(items, right)),
            len(right),
            tuple(
                GalleryResult(read(item), float(score), right.get(item, 0.0))
                for item, score in zip(items[:TOP].tolist(), scores[:TOP], strict=True)
            ),
            slices[row] if slices is not None else (),
        )

    return [gallery_query(row) for row in (*hardest, *others)]


def _first_right(results: NDArray[np.int64], right: Mapping[int, float]) -> int:
    """Returns the relevant item with the best rank, or the one with the highest grade if none is within the evaluation's depth."""
    return next((item for item in results.tolist() if item in right), max(right, key=lambda item: (right[item], -item)))


class _Reader:
    """Reads items with their frames, each only once."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._read: dict[int, GalleryItem] = {}

    def __call__(self, index: int) -> GalleryItem:
        if index not in self._read:
            item = self._prepared.item(index)
            fields = tuple((name, _short(text)) for name, text in item.fields)
            self._read[index] = GalleryItem(_short(item.key), fields, self._frames(item.key) if item.kind == "video" else None)
        return self._read[index]

    def _frames(self, video: str) -> NDArray[np.uint8]:
        stored = self._prepared.store.get(video)
        frames = from_patches(stored.rows, stored.grid_thw, stored.vision)  # (frames, height, width, 3)
        picked = np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int))
        return np.stack([_small(frames[number]) for number in picked])


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _small(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    if height <= HEIGHT:
        return frame
    return np.asarray(Image.fromarray(frame).resize((max(1, round(width * HEIGHT / height)), HEIGHT), Image.Resampling.BOX))
