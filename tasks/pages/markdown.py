"""Markdown for Prefect's pages. Text from data, settings and programs is escaped, since a query may be `<script>` or `| x |`."""

import html
import re
from collections.abc import Iterable, Sequence

SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~-])")


def escape(value: object) -> str:
    """Returns a value as text on one line, escaped for Markdown and HTML. Floats get four significant digits."""
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
    """Returns a table; empty if there are no rows. None is an empty cell."""
    lines = [_row(row) for row in rows]
    if not lines:
        return ""
    return "\n".join([_row(header), "|" + " --- |" * len(header), *lines])


def code(*lines: str) -> str:
    """Returns commands as an indented code block, in which nothing needs escaping."""
    return "\n".join("    " + " ".join(line.split()) for line in lines)


def page(*blocks: str) -> str:
    """Joins headings, sentences and tables; empty blocks are left out."""
    return "\n\n".join(block for block in blocks if block)


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join("" if cell is None else escape(cell) for cell in cells) + " |"
