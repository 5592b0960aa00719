"""Values in messages."""

import pytest

from reelnest.records.json_lines import show


@pytest.mark.parametrize(("value", "text"), [("short", '"short"'), ("x" * 40, f'"{"x" * 17}…"'), (list(range(40)), "[0, 1, 2, 3, 4, 5,…]")])
def test_a_long_value_is_cut_and_still_closed(value: object, text: str) -> None:
    assert show(value, 20) == text
