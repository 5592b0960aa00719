"""Layout of interval bars in a table. All rows have one scale, so that a reader can compare them down the column."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 200, 20
INSET = 6


@dataclass(frozen=True)
class Bar:
    """The x coordinates of a value and its interval."""

    at: float
    low: float
    high: float
    zero: float | None
    """The x coordinate of 0, if it is drawn."""
    width: int = WIDTH
    height: int = HEIGHT


def interval_bars(values: Sequence[tuple[float, float, float]], *, around_zero: bool = False) -> list[Bar]:
    """Returns a bar for each (value, low, high). `around_zero` puts 0 in the middle, for differences."""
    if not values:
        return []
    if around_zero:
        most = max(max(abs(low), abs(high)) for _, low, high in values) or 1.0
        begin, end = -most, most
    else:
        begin, end = min(low for _, low, _ in values), max(high for _, _, high in values)
        if begin == end:
            begin, end = begin - 0.5, end + 0.5

    def x(value: float) -> float:
        return INSET + (WIDTH - 2 * INSET) * (value - begin) / (end - begin)

    return [Bar(x(value), x(low), x(high), x(0.0) if around_zero else None) for value, low, high in values]
