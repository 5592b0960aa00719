"""Parts of the queries, on figures whose means are known."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from reelnest.evaluation.evaluation import Evaluation, QueryMetrics, Retrieved
from reelnest.evaluation.metrics import charted_names
from reelnest.evaluation.retrieval_sets import RetrievalSet
from reelnest.evaluation.slices import Slice, query_slices, slices
from reelnest.store.prepared import Prepared

TEXTS = ["ball", "red ball", "a big red ball", "one two three four five six seven eight nine ten eleven twelve 13 14 15 16"]
VIDEOS = [(3.0, "sport"), (7.0, "sport"), (400.0, "news"), (7.0, None)]


@dataclass
class Data:
    """Texts 0 to 3, videos 4 to 7."""

    written: list[tuple[int, int]]

    def item(self, index: int) -> Any:
        if index < 4:
            return SimpleNamespace(kind="text", key=TEXTS[index], fields=(), tags=())
        topic = VIDEOS[index - 4][1]
        return SimpleNamespace(kind="video", key=f"v{index}", fields=(), tags=(("topic", topic),) if topic else ())

    def seconds(self, index: int) -> float:
        return VIDEOS[index - 4][0]

    def pairs(self, split: str) -> Any:
        assert split == "test"
        return SimpleNamespace(queries=np.array([a for a, _ in self.written]), targets=np.array([b for _, b in self.written]))


@pytest.fixture(scope="module")
def evaluated() -> tuple[Evaluation, Prepared]:
    written = [(0, 4), (1, 5), (2, 6), (3, 7), (3, 4)]
    texts, videos = np.arange(4), np.arange(4, 8)
    to_video: dict[int, dict[int, float]] = {query: {} for query in range(4)}
    to_text: dict[int, dict[int, float]] = {video: {} for video in range(4, 8)}
    for query, video in written:
        to_video[query][video] = to_text[video][query] = 1.0
    sets = [RetrievalSet("text_to_video", texts, videos, to_video), RetrievalSet("video_to_text", videos, texts, to_text)]
    values = {8: [np.array([1.0, 0.5, 0.0, 0.25]), np.array([0.0, 1.0, 1.0, 0.0])], 32: [np.ones(4), np.ones(4)]}
    by_query = [
        QueryMetrics(searched, dim, dict.fromkeys(charted_names(), of_set))
        for dim, of_dim in values.items()
        for searched, of_set in zip(sets, of_dim, strict=True)
    ]
    evaluation = Evaluation((8, 32), (), tuple(by_query), (), tuple(Retrieved(searched, (), ()) for searched in sets))
    return evaluation, cast("Prepared", Data(written))


@pytest.fixture(scope="module")
def found(evaluated: tuple[Evaluation, Prepared]) -> list[Slice]:
    return slices(*evaluated, "test", [8, 32], ["topic"], 0.95)


def of(found: list[Slice], name: str) -> dict[str, tuple[int, float]]:
    return {one.value: (one.queries, one.metrics["mrr"]) for one in found if one.name == name and one.dim == 8}


def test_queries_are_divided_by_what_they_are(found: list[Slice]) -> None:
    assert of(found, "pair kind") == {"text_to_video": (4, 0.4375), "video_to_text": (4, 0.5)}
    assert of(found, "direction") == {"query → target": (4, 0.4375), "target → query": (4, 0.5)}
    assert of(found, "query words") == {"1": (1, 1.0), "2-3": (1, 0.5), "4-7": (1, 0.0), "16+": (1, 0.25)}
    assert of(found, "relevant items") == {"1": (6, pytest.approx(3.5 / 6)), "2-3": (2, 0.125)}


def test_queries_are_divided_by_the_video_that_is_asked_with_or_for(found: list[Slice]) -> None:
    # The text with two answers is asked for (3 + 7) / 2 = 5 seconds.
    assert of(found, "video seconds") == {"0-5 s": (2, 0.5), "5-15 s": (4, pytest.approx(1.75 / 4)), "300 s+": (2, 0.5)}
    assert of(found, "topic") == {"sport": (5, pytest.approx(2.75 / 5)), "news": (2, 0.5)}


def test_each_dim_has_its_figures_with_intervals_and_small_slices_are_marked(found: list[Slice]) -> None:
    assert {one.dim for one in found} == {8, 32}
    assert all(one.metrics["mrr"] == 1.0 for one in found if one.dim == 32)
    assert all(one.intervals[name][0] <= value <= one.intervals[name][1] for one in found for name, value in one.metrics.items())
    assert all(one.is_small for one in found)
    assert not Slice("direction", "query → target", 8, 30, {}, {}).is_small


def test_parts_are_in_order(found: list[Slice]) -> None:
    words = [one.value for one in found if one.name == "query words" and one.dim == 8]
    assert words == ["1", "2-3", "4-7", "16+"]


def test_each_query_is_told_the_slices_that_count_it(evaluated: tuple[Evaluation, Prepared], found: list[Slice]) -> None:
    told = query_slices(*evaluated, "test", ["topic"])
    assert told["text_to_video"][2] == (
        *("pair kind: text_to_video", "direction: query → target", "query words: 4-7", "relevant items: 1", "video seconds: 300 s+"),
        "topic: news",
    )
    assert told["video_to_text"][3] == (
        "pair kind: video_to_text",
        "direction: target → query",
        "relevant items: 1",
        "video seconds: 5-15 s",
    )
    names = [name for of_kind in told.values() for of_query in of_kind for name in of_query]
    assert {f"{one.name}: {one.value}": one.queries for one in found} == {name: names.count(name) for name in names}
