"""Searches to look at: what was wanted, what the model found, and which videos it takes for others."""

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
"""Answers shown for a query."""
FRAMES = 4
"""Of a video: enough to see what moves, and few enough for a page with a hundred videos."""
HEIGHT = 112
"""Pixels of a frame; larger ones are made smaller."""
CONFUSED_VIDEOS = 6
CASES = 3
"""Searches shown for each of them."""
LONGEST_TEXT = 2000
"""Characters; the rest of a longer text is cut off."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A text or a video, as the page shows it."""

    text: str
    """The text itself, or the video's id."""
    fields: tuple[tuple[str, str], ...] = ()
    """A video's text fields that the encoder read, (name, text) each."""
    frames: NDArray[np.uint8] | None = None  # (at most FRAMES, height, width, 3), in order of time; None for a text


@dataclass(frozen=True, eq=False)
class GalleryAnswer:
    """One of a query's best answers."""

    item: Shown
    score: float
    """Cosine at the full width."""
    grade: float
    """0 for a wrong answer."""


@dataclass(frozen=True, eq=False)
class GalleryQuery:
    """A query, what it wanted, and its TOP best answers at the full width."""

    pair_kind: str
    query: Shown
    is_hard: bool
    """Chosen for its rank; others are chosen by chance."""
    ranks: tuple[tuple[int, int], ...]
    """(dim, where its best right answer stands, from 1), by rising dim."""
    wanted: Shown
    """Of its right answers the one that stands first."""
    wanted_in_all: int
    answers: tuple[GalleryAnswer, ...]
    slices: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """At the full width."""
        return self.ranks[-1][1]


@dataclass(frozen=True, eq=False)
class ConfusedVideo:
    """A video that stands first for queries that it does not answer."""

    video: Shown
    queries: int
    """So many."""
    cases: tuple[tuple[Shown, Shown], ...]
    """(query, what it wanted), for some of these."""


Slices = Mapping[str, Sequence[tuple[str, ...]]]
"""By pair kind, the names of the slices that each query belongs to, in the order of the set's queries."""


def choose_gallery(prepared: Prepared, evaluation: Evaluation, count: int, slices: Slices | None = None) -> list[GalleryQuery]:
    """`count` queries, where there are so many: of each pair kind alike, half of them the hardest and half by chance.

    Chance hangs on the queries' texts alone, so that a page can be compared with the next model's. Each kind's hardest come first.
    """
    found = []
    kinds = len(evaluation.retrieved)
    for number, retrieved in enumerate(evaluation.retrieved):
        of_kind = count // kinds + (number < count % kinds)
        found += _choose(prepared, _Reader(prepared), evaluation, retrieved, of_kind, (slices or {}).get(retrieved.searched.pair_kind))
    return found


def confused_videos(prepared: Prepared, evaluation: Evaluation, count: int) -> list[ConfusedVideo]:
    """The videos that most often stand first where another answer was wanted, at the full width.

    Twice or more each; at most `count` videos, and at most CONFUSED_VIDEOS.
    """
    wrong: dict[int, list[tuple[int, int]]] = defaultdict(list)  # video → (query, what it wanted)
    for retrieved in evaluation.retrieved:
        searched = retrieved.searched
        if searched.target_kind == "video":
            for query, found in zip(searched.queries.tolist(), retrieved.items, strict=True):
                right = searched.qrels[query]
                if len(found) and int(found[0]) not in right:
                    wrong[int(found[0])].append((query, _first_right(found, right)))
    read = _Reader(prepared)
    most = sorted(wrong, key=lambda video: (-len(wrong[video]), video))[: min(count, CONFUSED_VIDEOS)]
    return [
        ConfusedVideo(read(video), len(wrong[video]), tuple((read(query), read(wanted)) for query, wanted in wrong[video][:CASES]))
        for video in most
        if len(wrong[video]) > 1
    ]


def _choose(
    prepared: Prepared,
    read: Callable[[int], Shown],
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
    by_chance = sorted(range(len(keys)), key=lambda position: hashlib.sha256(keys[position].encode()).digest())
    hardest = sorted((position for position in by_chance if ranks[position] > 1), key=lambda position: -ranks[position])[: (count + 1) // 2]
    others = [position for position in by_chance if position not in hardest][: count - len(hardest)]

    def shown(position: int) -> GalleryQuery:
        query = int(searched.queries[position])
        right = searched.qrels[query]
        found, scores = retrieved.items[position], retrieved.scores[position]
        return GalleryQuery(
            searched.pair_kind,
            read(query),
            position in hardest,
            tuple((dim, int(by_dim[dim][position])) for dim in evaluation.dims),
            read(_first_right(found, right)),
            len(right),
            tuple(
                GalleryAnswer(read(item), float(score), right.get(item, 0.0))
                for item, score in zip(found[:TOP].tolist(), scores[:TOP], strict=True)
            ),
            slices[position] if slices is not None else (),
        )

    return [shown(position) for position in (*hardest, *others)]


def _first_right(found: NDArray[np.int64], right: Mapping[int, float]) -> int:
    """The right answer that stands first, or the one with the highest grade where none was found within the evaluation's depth."""
    return next((item for item in found.tolist() if item in right), max(right, key=lambda item: (right[item], -item)))


class _Reader:
    """Items with their frames, each read once however often it is shown."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._read: dict[int, Shown] = {}

    def __call__(self, index: int) -> Shown:
        if index not in self._read:
            item = self._prepared.item(index)
            fields = tuple((name, _short(text)) for name, text in item.fields)
            self._read[index] = Shown(_short(item.key), fields, self._frames(item.key) if item.kind == "video" else None)
        return self._read[index]

    def _frames(self, video: str) -> NDArray[np.uint8]:
        stored = self._prepared.store.get(video)
        frames = from_patches(stored.rows, stored.grid_thw, stored.vision)  # (frames, height, width, 3)
        shown = np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int))
        return np.stack([_small(frames[number]) for number in shown])


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _small(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    if height <= HEIGHT:
        return frame
    return np.asarray(Image.fromarray(frame).resize((max(1, round(width * HEIGHT / height)), HEIGHT), Image.Resampling.BOX))
