"""Filters: the tree of a condition, and errors that quote what cannot be used."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from reelnest.errors import QueryError
from reelnest.search.filters import All, AnyOf, Compare, Filter, Not, OneOf, number_of, parse_filter

TAGS = ("language", "duration", "play length")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('language == "en"', OneOf("language", ("en",))),
        ("'en' != language", Not(OneOf("language", ("en",)))),
        ("language in ('en', 'de')", OneOf("language", ("en", "de"))),
        ("language not in ['en']", Not(OneOf("language", ("en",)))),
        ("10 <= duration < 30.5", All((Compare("duration", ">=", 10.0), Compare("duration", "<", 30.5)))),
        ("-2 > duration", Compare("duration", "<", -2.0)),
        ("duration >= +2", Compare("duration", ">=", 2.0)),
        ('tags["play length"] > 3 or title == "a ring"', AnyOf((Compare("play length", ">", 3.0), OneOf("title", ("a ring",))))),
        ('not (language == "en" and video_id >= "m")', Not(All((OneOf("language", ("en",)), Compare("video_id", ">=", "m"))))),
        ('  language ==\t"ü"  ', OneOf("language", ("ü",))),
    ],
)
def test_a_condition_in_pythons_notation_becomes_a_tree(text: str, expected: Filter) -> None:
    assert parse_filter(text, TAGS) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("language = 'en'", "cannot be read"),
        ("langauge == 'en'", r"'langauge' is not a field of this index's videos. Their tags: duration, language, play length"),
        ("tags['no'] == 'en'", r"is not a field"),
        ("tags.language == 'en'", "'tags.language' is not the name of a tag or a text field"),
        ("language", "'language' is not a comparison"),
        ("language == en", "'en' is not a text in quotes or a number"),
        ("language == None", "'None' is not a text in quotes or a number"),
        ("language is 'en'", "compares with `is`; use =="),
        ("language in 'en'", "is not a list of values"),
        ("language in ()", "is not a list of values"),
        ("language in ('en', 3)", "mixes texts and numbers"),
        ("duration < 1e999", "is not a text in quotes or a number"),
        ("duration > -1e999", "is not a text in quotes or a number"),
        ("duration < " + "9" * 400, "is not a text in quotes or a number"),
        ("duration > -" + "9" * 400, "is not a text in quotes or a number"),
        ("duration < True", "is not a text in quotes or a number"),
        ("duration < 3 + 4", "'3 . 4' is not a text in quotes or a number"),
        ("__import__('os').system('true') == 0", "is not the name of a tag or a text field"),
        ("(lambda: 1)() < duration < 3", "is not the name of a tag or a text field|is not a text in quotes"),
        ("language == 'en\0'", "cannot be read"),
        ("language == 'en\\0'", "a character that no index stores"),
        ("language == '\\ud800'", "a character that no index stores"),
        ("not " * 5000 + "duration < 3", "limit is 10,000"),
        ("not " * 2000 + "duration < 3", "cannot be read|inside 50 other conditions"),
        ("not " * 51 + "duration < 3", "inside 50 other conditions"),
    ],
)
def test_what_cannot_be_used_is_quoted(text: str, message: str) -> None:
    with pytest.raises(QueryError, match=message) as raised:
        parse_filter(text, TAGS)
    assert "\n" not in str(raised.value)


def test_of_many_tags_a_message_names_the_first_and_how_many_more_there_are() -> None:
    with pytest.raises(QueryError, match=r"Their tags: tag000, .*, tag019, and 980 more\. Others: title"):
        parse_filter("none == 'en'", [f"tag{number:03}" for number in range(1000)])


def test_texts_that_are_numbers_are_compared_as_python_reads_them() -> None:
    for text in ("3", "-0.5", " 12.50 ", "1e3", ".5", "7."):
        assert number_of(text) == float(text)
    for text in ("", "3 s", "0x10", "nan", "inf", "1_000", "٣", "1e400", "--1"):
        assert number_of(text) != number_of(text)


def test_threads_can_parse_at_once() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            parsed = list(pool.map(lambda at: parse_filter(f"duration < {at} and not (language == 'en')", TAGS), range(400)))
    finally:
        sys.setswitchinterval(interval)
    assert parsed[7] == All((Compare("duration", "<", 7.0), Not(OneOf("language", ("en",)))))


@pytest.mark.parametrize("tag", ["cafe\u0301", "ｃａｔ"])
def test_a_tag_keeps_the_letters_that_it_is_written_with(tag: str) -> None:
    assert parse_filter(f'{tag} == "a"', [tag]) == OneOf(tag, ("a",))
