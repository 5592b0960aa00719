"""Which queries, corpora and right answers a split has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from reelnest.evaluation.retrieval_sets import RetrievalSet, retrieval_sets

# Items 0 to 3 are texts, 4 to 8 are videos.
TEXTS = 4


@dataclass(frozen=True)
class Item:
    kind: str


@dataclass(frozen=True)
class Pairs:
    queries: np.ndarray
    targets: np.ndarray
    relevance: np.ndarray
    negatives: tuple[np.ndarray, ...]


class Data:
    """Prepared data from rows of (query, target, grade, split, negatives)."""

    def __init__(self, rows: Sequence[tuple[int, int, float, str, Sequence[int]]]) -> None:
        self.rows = rows

    def item(self, index: int) -> Item:
        return Item("text" if index < TEXTS else "video")

    def pairs(self, split: str) -> Pairs:
        rows = [row for row in self.rows if row[3] == split]
        return Pairs(
            np.array([row[0] for row in rows], dtype=np.int64),
            np.array([row[1] for row in rows], dtype=np.int64),
            np.array([row[2] for row in rows], dtype=np.float32),
            tuple(np.array(row[4], dtype=np.int64) for row in rows),
        )

    def related(self, index: int) -> np.ndarray:
        found = {row[1] for row in self.rows if row[0] == index} | {row[0] for row in self.rows if row[1] == index}
        return np.array(sorted(found), dtype=np.int64)


def sets_of(*rows: tuple[int, int, float, str, Sequence[int]]) -> dict[str, RetrievalSet]:
    return {found.pair_kind: found for found in retrieval_sets(cast("Any", Data(rows)), "test")}


def test_each_pair_is_asked_both_ways_round() -> None:
    sets = sets_of((0, 4, 2.0, "test", ()), (5, 1, 1.0, "test", ()))
    assert list(sets) == ["text_to_video", "video_to_text"]
    assert sets["text_to_video"].qrels == {0: {4: 2.0}, 1: {5: 1.0}}
    assert sets["text_to_video"].corpus.tolist() == [4, 5]
    assert sets["video_to_text"].qrels == {4: {0: 2.0}, 5: {1: 1.0}}
    assert sets["video_to_text"].corpus.tolist() == [0, 1]


def test_pairs_of_one_kind_are_asked_both_ways_and_an_item_is_never_its_own_answer() -> None:
    sets = sets_of((4, 5, 1.0, "test", ()), (4, 4, 1.0, "test", ()))
    assert list(sets) == ["video_to_video"]
    assert sets["video_to_video"].qrels == {4: {5: 1.0}, 5: {4: 1.0}}
    assert {query: items.tolist() for query, items in sets["video_to_video"].ignored.items()} == {4: [4], 5: [5]}


def test_a_query_keeps_all_its_right_answers_and_the_highest_grade_of_repeats() -> None:
    sets = sets_of((0, 4, 1.0, "test", ()), (0, 4, 3.0, "test", ()), (0, 5, 2.0, "test", ()), (5, 0, 0.5, "test", ()))
    assert sets["text_to_video"].qrels == {0: {4: 3.0, 5: 2.0}}


def test_listed_negatives_join_the_corpus_of_their_own_kind_only() -> None:
    sets = sets_of((0, 4, 1.0, "test", (7, 3, 4)), (1, 5, 1.0, "test", ()))
    assert sets["text_to_video"].corpus.tolist() == [4, 5, 7]
    assert {query: items.tolist() for query, items in sets["text_to_video"].negatives.items()} == {0: [7]}  # 4 is a right answer
    assert sets["video_to_text"].corpus.tolist() == [0, 1]
    assert sets["video_to_text"].negatives == {}


def test_what_is_paired_in_another_split_counts_neither_as_right_nor_as_wrong() -> None:
    sets = sets_of((0, 4, 1.0, "test", ()), (1, 5, 1.0, "test", ()), (0, 5, 1.0, "train", ()))
    assert sets["text_to_video"].qrels == {0: {4: 1.0}, 1: {5: 1.0}}
    assert {query: items.tolist() for query, items in sets["text_to_video"].ignored.items()} == {0: [5]}


def test_a_split_without_pairs_has_no_sets() -> None:
    assert sets_of((0, 4, 1.0, "train", ())) == {}
