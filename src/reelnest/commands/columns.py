"""Tables for a terminal."""

from collections.abc import Sequence


def in_columns(lines: Sequence[Sequence[str]]) -> str:
    """Each line's cells below those of the line before. All lines have as many cells as the first."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
