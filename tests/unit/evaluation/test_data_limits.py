"""Metrics that are no test on some data, and the best possible values."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest

from reelnest.evaluation.data_limits import best_possible, no_test
from reelnest.evaluation.metrics import METRICS
from reelnest.evaluation.retrieval_sets import RetrievalSet
from reelnest.store.prepared import Item


class Store:
    """Videos whose bytes are named by `contents`."""

    def __init__(self, contents: Mapping[int, str]) -> None:
        self._contents = contents

    def index_of(self, video: str) -> int:
        return int(video)

    def content(self, index: int) -> str:
        return self._contents.get(index, str(index))


class Videos:
    """Prepared data in which every item is a video named by its number."""

    def __init__(self, contents: Mapping[int, str]) -> None:
        self.store = Store(contents)

    def item(self, index: int) -> Item:
        return Item(index, "video", str(index), ())


def searched(
    queries: int, corpus: Sequence[int], relevant: Mapping[int, Sequence[int]] | None = None, kind: str = "a_to_b"
) -> RetrievalSet:
    """Queries from 100 on; item n is relevant to query 100 + n unless `relevant` has others."""
    qrels = {100 + number: dict.fromkeys((relevant or {}).get(number, [number]), 1.0) for number in range(queries)}
    return RetrievalSet(kind, np.array(sorted(qrels)), np.array(corpus), qrels)


def reasons(*sets: RetrievalSet, contents: Mapping[int, str] | None = None) -> dict[str, dict[str, str]]:
    return no_test(sets, cast("Any", Videos(contents or {})))


def test_a_cutoff_that_covers_the_corpus_is_no_test_and_one_below_it_is() -> None:
    ten = reasons(searched(5, range(10)))
    assert list(ten) == ["a_to_b", "all"]
    assert list(ten["all"]) == ["recall@10"]
    assert ten["all"]["recall@10"] == "there are only 10 different candidates, and every search has all of them in its first 10 results"
    assert list(reasons(searched(5, range(5)))["all"]) == ["recall@5", "recall@10"]
    assert reasons(searched(5, range(11))) == {}


def test_candidates_with_the_same_content_count_once() -> None:
    assert list(reasons(searched(5, range(12)), contents={11: "10", 10: "10", 9: "10"})["all"]) == ["recall@10"]
    identical = reasons(searched(5, range(12)), contents=dict.fromkeys(range(12), "same"))["all"]
    assert set(identical.values()) == {"all candidates are the same"}
    assert set(identical) == set(METRICS)


@pytest.mark.parametrize(
    ("queries", "relevant", "reason"),
    [(1, None, "there is only one query"), (3, {0: [7], 1: [7], 2: [7]}, "all 3 queries have the same relevant items")],
)
def test_one_query_and_one_target_for_all_are_no_test_by_any_metric(
    queries: int, relevant: Mapping[int, Sequence[int]] | None, reason: str
) -> None:
    assert reasons(searched(queries, range(40), relevant))["all"] == dict.fromkeys(METRICS, reason)


def test_a_metric_that_tests_one_pair_kind_is_a_test_over_all_queries() -> None:
    found = reasons(searched(5, range(10)), searched(5, range(30), kind="b_to_a"))
    assert list(found) == ["a_to_b"]


def test_the_best_recall_at_1_counts_that_only_one_relevant_item_can_rank_first() -> None:
    best = best_possible([searched(2, range(30), {0: [0], 1: [1, 2, 3, 4]}), searched(1, range(30), kind="b_to_a")])
    assert {kind: values["recall@1"] for kind, values in best.items()} == pytest.approx({"a_to_b": 0.625, "b_to_a": 1.0, "all": 0.75})
    for name in ("hit@1", "recall@5", "mrr", "ndcg@10", "map", "median_rank"):
        assert best["all"][name] == pytest.approx(1.0), name
