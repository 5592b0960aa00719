"""Warnings about data that can be used but teaches or tests little."""

import unicodedata

import pytest

from reelnest.checks.data_warnings import data_warnings
from reelnest.records.formats import Pair, Side

CAFE = "a red café"


def warnings(*rows: tuple[str, str, str]) -> list[str]:
    """Of pairs of a text and a video, each with its split."""
    pairs = [Pair(Side("text", query), Side("video", video), 1.0, split, (), line) for line, (query, video, split) in enumerate(rows, 1)]
    return data_warnings(pairs, [split for _, _, split in rows])


def test_ordinary_data_has_no_warning() -> None:
    assert warnings(("a", "v1", "train"), ("b", "v2", "train"), ("c", "v3", "test"), ("c", "v4", "test")) == [
        "All 2 pairs of the test split have the same query (text 'c'). They test nothing: check the field from which pairs.jsonl gets its"
        " query."
    ]
    assert warnings(("a", "v1", "train"), ("b", "v2", "train"), ("c", "v3", "test")) == []


def test_equal_queries_and_one_target_for_all_are_counted_by_split() -> None:
    (queries,) = warnings(("Same ", "v1", "train"), ("same", "v2", "train"), ("same", "v3", "train"))
    assert queries.startswith("All 3 pairs of the train split have the same query (text 'same'). A model learns nothing from them")
    (targets,) = warnings(("a", "v1", "validation"), ("b", "v1", "validation"))
    assert targets.startswith("All 2 pairs of the validation split have the same target (video 'v1').")


@pytest.mark.parametrize(
    "spelling",
    [unicodedata.normalize("NFD", CAFE), "A Red CAFÉ", "  a red\tcafé ", "a\u00a0red café"],
    ids=["NFD", "case", "space", "nbsp"],
)
def test_a_text_in_two_splits_in_other_spelling_is_a_leak(spelling: str) -> None:
    assert spelling != CAFE
    (leak,) = warnings((CAFE, "v1", "train"), ("b", "v2", "train"), (spelling, "v3", "test"), ("d", "v4", "test"))
    assert leak.startswith("1 text is in several splits, with other white space, case or Unicode form: ")
    assert "(train, line 1)" in leak
    assert "(test, line 3)" in leak
    assert warnings((CAFE, "v1", "train"), ("b", "v2", "train"), (spelling, "v3", "train")) == []


def test_a_query_with_many_of_the_pairs_is_named() -> None:
    usual = [(f"query {number}", f"v{number}", "train") for number in range(100)]
    assert warnings(*usual, *[("query 1", f"w{number}", "train") for number in range(9)]) == []
    (frequent,) = warnings(*usual, *[("Query 1", f"w{number}", "train") for number in range(19)])
    assert frequent.startswith("20 of 119 pairs of the train split have the query text 'query 1'. Batches repeat it")
    (frequent,) = warnings(*((query, video, "test") for query, video, _ in usual), *[("query 1", f"w{at}", "test") for at in range(19)])
    assert "The metrics are mostly about it" in frequent
    assert warnings(*usual[:50], *[("query 1", f"w{number}", "train") for number in range(19)]) == []


def test_grades_of_which_one_has_almost_all_pairs_are_named() -> None:
    def of_grades(*grades: float) -> list[str]:
        pairs = [Pair(Side("text", f"q{at}"), Side("video", f"v{at}"), grade, None, (), at) for at, grade in enumerate(grades)]
        return data_warnings(pairs, ["train"] * len(pairs))

    assert of_grades(*[1.0] * 500) == []
    assert of_grades(*[1.0] * 98, 2.0, 3.0) == []
    assert of_grades(1.0, 2.0, 2.0) == []
    (unbalanced,) = of_grades(*[1.0] * 498, 2.0, 3.0)
    assert unbalanced.startswith("498 of 500 pairs have the relevance 1, so the other 2 grades hardly count")


def test_texts_that_look_like_personal_data_are_counted_and_not_quoted() -> None:
    (warning,) = warnings(("mail to ann.b@example.org", "v1", "train"), ("a ring", "v2", "train"), ("call +44 20 7946 0958", "v3", "test"))
    assert "2 lines of pairs.jsonl have texts that look like personal data (e-mail address: 1, phone number: 1)" in warning
    assert "line 1" in warning
    assert "ann" not in warning
