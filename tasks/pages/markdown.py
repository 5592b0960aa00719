"""Markdown for Prefect's pages. Everything that comes from data, settings or a program is escaped: a query may be `<script>` or `| x |`."""

import html
import re
from collections.abc import Iterable, Sequence

SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~-])")


def escape(value: object) -> str:
    """A value as text that Markdown and HTML leave as it is, on one line. Floats get four significant digits."""
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, int):
        text = f"{value:,}"
    elif isinstance(value, float):
        text = f"{value:.4g}"
    else:
        text = " ".join(str(value).split())
    return SPECIAL.sub(r"\\\1", html.escape(text, quote=False))


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table; empty text where there are no rows. None is an empty cell."""
    lines = [_row(row) for row in rows]
    if not lines:
        return ""
    return "\n".join([_row(header), "|" + " --- |" * len(header), *lines])


def code(*lines: str) -> str:
    """Commands, as they are: nothing ends a block that is indented but the end of its lines."""
    return "\n".join("    " + " ".join(line.split()) for line in lines)


def page(*parts: str) -> str:
    """Headings, sentences and tables one below the other; empty parts are left out."""
    return "\n\n".join(part for part in parts if part)


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join("" if cell is None else escape(cell) for cell in cells) + " |"
