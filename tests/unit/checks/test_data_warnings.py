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
    assert leak.startswith("1 texts are in several splits, with other white space, case or Unicode form: ")
    assert "(train, line 1)" in leak
    assert "(test, line 3)" in leak
    assert warnings((CAFE, "v1", "train"), ("b", "v2", "train"), (spelling, "v3", "train")) == []
