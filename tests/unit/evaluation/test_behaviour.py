"""Behaviour tests on planted vectors: what passes, what does not, and at which dim."""

import pytest
import torch

from reelnest.evaluation.behaviour import Behaviour, EmbeddedTests, score_behaviour
from reelnest.records.behaviour_tests import BehaviourTest, Kind

VIDEOS = {"left": 0, "right": 1, "up": 2, "also left": 3}
# The first two numbers tell left from right; all of them also tell what goes up.
CORPUS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.5, 3.0], [0.9, 0.1, 0.0]])
TEXTS = {"left": [1.0, 0.0, 0.0], "leftward": [1.0, 0.1, 0.0], "right": [0.1, 1.0, 0.0], "up": [0.1, 1.0, 4.0]}


def a_test(kind: Kind, query: str, **rest: object) -> BehaviourTest:
    found: dict[str, object] = {"same_as": "", "video": (), "above": (), "top": 2, "shared": 2, "line": 1, **rest}
    return BehaviourTest(kind, query, **found)  # type: ignore[arg-type]  # fields of each case


def scored(*tests: BehaviourTest) -> Behaviour:
    rows = {text: row for row, text in enumerate(TEXTS)}
    embedded = EmbeddedTests(tests, rows, torch.tensor(list(TEXTS.values())), VIDEOS, CORPUS)
    return score_behaviour(embedded, [2, 3])


def test_a_synonym_keeps_the_ranking_and_another_word_does_not() -> None:
    found = scored(a_test("invariance", "left", same_as="leftward"), a_test("invariance", "left", same_as="right", line=7))
    assert found.tests == {"invariance": 2}
    assert found.passed == {2: {"invariance": 0.5}, 3: {"invariance": 0.5}}
    assert [(one.line, one.dims) for one in found.failures] == [(7, (2, 3))]
    assert "expected 2 or more" in found.failures[0].problem


def test_the_right_video_stands_above_its_opposite() -> None:
    found = scored(
        a_test("direction", "left", video=("left",), above=("right",)),
        a_test("direction", "right", video=("left",), above=("right",), line=2),
        # Of several the best one counts: the worst of the right ones may stand below.
        a_test("direction", "right", video=("left", "right"), above=("up",), line=3),
        a_test("direction", "left", video=("left",), above=("left",), line=4),
    )
    assert found.passed[3] == {"direction": 0.5}
    assert [one.line for one in found.failures] == [2, 4]


def test_the_obvious_query_finds_the_obvious_video_at_the_dims_that_can_tell() -> None:
    found = scored(a_test("minimum", "up", video=("up",), top=1), a_test("minimum", "left", video=("right", "also left")))
    assert found.passed == {2: {"minimum": 0.5}, 3: {"minimum": 1.0}}
    ((failure,)) = found.failures
    assert (failure.query, failure.dims) == ("up", (2,))
    assert failure.problem == "the video has rank 2 of 4; expected one of the first 1"


def test_a_model_that_sees_no_difference_passes_no_test_of_direction() -> None:
    rows = {"left": 0}
    test = a_test("direction", "left", video=("left",), above=("right",))
    found = score_behaviour(EmbeddedTests([test], rows, torch.ones(1, 3), VIDEOS, torch.ones(4, 3)), [3])
    assert found.passed == {3: {"direction": 0.0}}


@pytest.mark.parametrize("shared", [2, 5])
def test_a_corpus_smaller_than_what_is_looked_at_is_shared_whole(shared: int) -> None:
    found = scored(a_test("invariance", "left", same_as="right", top=10, shared=shared))
    assert found.failures == ()
