"""Tables for a terminal."""

from collections.abc import Sequence


def in_columns(lines: Sequence[Sequence[str]]) -> str:
    """Aligns the cells of the lines in columns. All lines must have equally many cells."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
