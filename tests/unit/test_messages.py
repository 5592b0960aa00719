"""Lists in messages."""

import pytest

from reelnest.messages import some_of


@pytest.mark.parametrize(("count", "text"), [(0, ""), (1, "a"), (3, "a, b, c"), (4, "a, b, c, and 1 more"), (5, "a, b, c, and 2 more")])
def test_a_long_list_ends_with_the_number_of_the_others(count: int, text: str) -> None:
    assert some_of("abcde"[:count], 3) == text


def test_a_list_of_lines_ends_with_a_line_of_its_own() -> None:
    assert some_of(["first", "second", "third"], 2, separator="\n  ") == "first\n  second\n  and 1 more"
