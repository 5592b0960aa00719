"""Parts of messages for people."""

from collections.abc import Sequence


def some_of(texts: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """Returns the first `most` texts and the number of the others: `a, b, and 3 more`. Without others, returns all texts."""
    others = len(texts) - most
    return separator.join([*texts[:most], *([f"and {others:,} more"] if others > 0 else [])])
