"""Nothing that comes from data or programs becomes markup."""

import pytest

from tasks.pages.markdown import escape, page, table


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("<script>alert(1)</script>", r"&lt;script&gt;alert\(1\)&lt;/script&gt;"),
        ("a | b", r"a \| b"),
        ("two\nlines", "two lines"),
        ("[x](javascript:y)", r"\[x\]\(javascript:y\)"),
        ("`*_#~", r"\`\*\_\#\~"),
        ("&amp;", "&amp;amp;"),
        ("\\|", r"\\\|"),
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (True, "yes"),
    ],
)
def test_values_stay_text_on_one_line(value: object, shown: str) -> None:
    assert escape(value) == shown


def test_a_table_has_as_many_cells_in_every_row_whatever_the_values_hold() -> None:
    lines = table(["a", "b"], [["x|y", None], ["\n", 1]]).splitlines()
    assert lines == ["| a | b |", "| --- | --- |", r"| x\|y |  |", "|  | 1 |"]


def test_empty_parts_leave_no_gap() -> None:
    assert page("# A", table(["a"], []), "", "b") == "# A\n\nb"
