"""Queries to look at: what the model finds for them, in pictures."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reelnest.data.patches import from_patches
from reelnest.data.prepared import Prepared
from reelnest.search.evaluation import Answers, Evaluation

TOP = 5
FRAMES = 8
HEIGHT = 128
"""Pixels of a picture; larger frames are made smaller, so that a gallery of long videos fits into memory."""


@dataclass(frozen=True, eq=False)
class GalleryAnswer:
    """One of a query's best answers."""

    video_id: str
    score: float
    """Cosine at the full width."""
    grade: float
    """0 for a wrong answer."""
    fields: tuple[tuple[str, str], ...]
    """The video's text fields that the encoder read, (name, text) each."""
    frames: NDArray[np.uint8]  # (at most FRAMES, height, width, 3), in order of time


@dataclass(frozen=True, eq=False)
class GalleryQuery:
    """A text query and its TOP best videos at the full width."""

    text: str
    rank: int | None
    """Where its best right answer stands, from 1; None if it is not within the evaluation's depth."""
    answers: tuple[GalleryAnswer, ...]

    @property
    def is_right(self) -> bool:
        """Whether the first answer is a right one."""
        return self.rank == 1


def choose_gallery(prepared: Prepared, evaluation: Evaluation, count: int) -> list[GalleryQuery]:
    """At most `count` text→video queries, half of them with a right first answer and half without, as far as there are so many.

    Which ones hangs on the queries' texts alone, so that a page can be compared with the next model's.
    """
    for answers in evaluation.answers:
        if answers.searched.pair_kind == "text_to_video":
            return _choose(prepared, answers, count)
    return []


def _choose(prepared: Prepared, answers: Answers, count: int) -> list[GalleryQuery]:
    searched = answers.searched
    texts = [prepared.item(int(query)).key for query in searched.queries]
    ranks = [_rank(found, searched.qrels[int(query)]) for query, found in zip(searched.queries, answers.items, strict=True)]
    order = sorted(range(len(texts)), key=lambda position: hashlib.sha256(texts[position].encode()).digest())
    right, wrong = ([position for position in order if (ranks[position] == 1) is wanted] for wanted in (True, False))
    of_wrong = min(len(wrong), max(count // 2, count - len(right)))
    chosen = set(right[: count - of_wrong] + wrong[:of_wrong])
    return [
        GalleryQuery(
            texts[position],
            ranks[position],
            tuple(
                _answer(prepared, int(item), float(score), searched.qrels[int(searched.queries[position])].get(int(item), 0.0))
                for item, score in zip(answers.items[position][:TOP], answers.scores[position][:TOP], strict=True)
            ),
        )
        for position in order
        if position in chosen
    ]


def _rank(found: NDArray[np.int64], right: dict[int, float]) -> int | None:
    ranks = np.flatnonzero(np.isin(found, np.fromiter(right, dtype=np.int64)))
    return int(ranks[0]) + 1 if len(ranks) else None


def _answer(prepared: Prepared, item: int, score: float, grade: float) -> GalleryAnswer:
    video = prepared.item(item)
    stored = prepared.store.get(video.key)
    frames = from_patches(stored.rows, stored.grid_thw)  # (frames, height, width, 3)
    shown = np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int))
    return GalleryAnswer(video.key, score, grade, video.fields, np.stack([_small(frames[number]) for number in shown]))


def _small(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    if height <= HEIGHT:
        return frame
    return np.asarray(Image.fromarray(frame).resize((max(1, round(width * HEIGHT / height)), HEIGHT), Image.Resampling.BOX))
