"""Layout of a line chart of quality against dim, which a template draws as inline SVG.

No plotting library is used, so that colours follow the page's light or dark scheme, text stays text, and each line has its name and last
value at its end instead of a legend.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 38, 140, 14, 34
LABEL_GAP = 17
"""Least distance between the names of two lines, so that they do not overlap."""
STEPS = (0.02, 0.05, 0.1, 0.2)
LEAST_SPAN = 0.1
"""Least span of the axis, so that small differences look small."""
MOST_TICKS = 6
TOPS = (0.1, 0.2, 0.5)
"""Upper ends of axes, of which the smallest that holds all values is used; otherwise it is 1."""


@dataclass(frozen=True)
class Mark:
    """A point of a line."""

    x: float
    y: float
    dim: int
    value: float
    ends: tuple[float, float] | None = None
    """The y coordinates of its interval, lower end first."""


@dataclass(frozen=True)
class Line:
    """The points of one pair kind, and the y coordinate of its label."""

    kind: str
    marks: tuple[Mark, ...]
    label_y: float

    @property
    def points(self) -> str:
        """The points of an SVG `polyline`."""
        return " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in self.marks)

    @property
    def band(self) -> str:
        """The points of an SVG `polygon` around the intervals; empty if a mark has none."""
        known = [(mark.x, mark.ends) for mark in self.marks if mark.ends is not None]
        if len(known) < len(self.marks):
            return ""
        around = [(x, low) for x, (low, _) in known] + [(x, high) for x, (_, high) in reversed(known)]
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in around)


@dataclass(frozen=True)
class Tick:
    """A labelled coordinate of an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class LineChart:
    """A chart of values between 0 and 1 against dim, on a log-2 axis."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    reference: Tick | None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM

    @property
    def scale(self) -> str:
        """The ends of the value axis."""
        return f"{self.y_ticks[0].text} to {self.y_ticks[-1].text}"


def line_chart(
    title: str,
    values: Mapping[str, Mapping[int, float]],
    reference: tuple[float, str] | None = None,
    *,
    intervals: Mapping[str, Mapping[int, tuple[float, float]]] | None = None,
) -> LineChart:
    """Lays out a line for each pair kind, from `values[kind][dim]` between 0 and 1.

    The axis starts below the lowest value rather than at 0, because the differences between dims are small compared with the values.
    `reference` is a level to compare with and its name; `intervals` has the lower and upper ends of all or some of the values.
    """
    ends = intervals or {}
    dims = sorted({dim for by_dim in values.values() for dim in by_dim})
    levels = [value for by_dim in values.values() for value in by_dim.values()] + ([reference[0]] if reference else [])
    levels += [end for by_dim in ends.values() for interval in by_dim.values() for end in interval]
    top = axis_top(max(levels))
    step, lowest = scale(min(levels), top)

    def x(dim: int) -> float:
        if len(dims) == 1:
            return (LEFT + WIDTH - RIGHT) / 2
        return LEFT + 8 + (WIDTH - RIGHT - LEFT - 16) * math.log2(dim / dims[0]) / math.log2(dims[-1] / dims[0])

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value - lowest) / (top - lowest)

    def mark(kind: str, dim: int, value: float) -> Mark:
        interval = ends.get(kind, {}).get(dim)
        return Mark(x(dim), y(value), dim, value, None if interval is None else (y(interval[0]), y(interval[1])))

    marks = {kind: tuple(mark(kind, dim, value) for dim, value in sorted(by_dim.items())) for kind, by_dim in values.items()}
    labels = _spread({kind: line[-1].y for kind, line in marks.items()})
    count = round((top - lowest) / step)
    return LineChart(
        title=title,
        lines=tuple(Line(kind, line, labels[kind]) for kind, line in marks.items()),
        x_ticks=apart([Tick(x(dim), str(dim)) for dim in dims]),
        y_ticks=tuple(
            Tick(y(lowest + number * step), f"{lowest + number * step:.{2 if step < 0.1 else 1}f}") for number in range(count + 1)
        ),
        reference=Tick(y(reference[0]), reference[1]) if reference else None,
    )


def scale(smallest: float, top: float) -> tuple[float, float]:
    """Returns the distance of ticks on an axis up to `top`, and its lower end: the tick below the smallest value, or 0."""
    for step in STEPS:
        span = max(LEAST_SPAN, top - smallest + step / 5)
        lowest = max(0.0, round(top - math.ceil(span / step - 1e-9) * step, 10))
        if (top - lowest) / step <= MOST_TICKS - 1 + 1e-9:
            return step, lowest
    return STEPS[-1], 0.0


def axis_top(highest: float) -> float:
    """Returns the upper end of an axis that holds `highest`, so that the values of a poor model are readable too."""
    return next((top for top in TOPS if highest <= top), 1.0)


def _spread(heights: Mapping[str, float]) -> dict[str, float]:
    """Moves labels apart as little as needed, in the same order and within the chart."""
    kinds = sorted(heights, key=lambda kind: heights[kind])
    placed: list[float] = []
    for kind in kinds:
        placed.append(max(heights[kind], placed[-1] + LABEL_GAP) if placed else heights[kind])
    # The labels have only moved down: centre each group on its lines, then keep it above the bottom edge.
    for end in range(len(placed) - 1, -1, -1):
        start = end
        while start > 0 and placed[start] - placed[start - 1] <= LABEL_GAP:
            start -= 1
        group = range(start, end + 1)
        lift = sum(placed[number] - heights[kinds[number]] for number in group) / len(group)
        room = placed[start] - (placed[start - 1] + LABEL_GAP if start else TOP - 6)
        for number in group:
            placed[number] -= max(0.0, min(lift, room))
    lowest = float(HEIGHT - BOTTOM + 4)
    for number in range(len(placed) - 1, -1, -1):
        placed[number] = min(placed[number], lowest)
        lowest = placed[number] - LABEL_GAP
    return dict(zip(kinds, placed, strict=True))


def apart(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """Leaves out ticks whose text would overlap the next one's. The last tick, the full width, always stays."""
    spaced: list[Tick] = []
    for tick in reversed(ticks):
        if not spaced or spaced[-1].at - tick.at >= 8 + 3.5 * (len(spaced[-1].text) + len(tick.text)):
            spaced.append(tick)
    return tuple(reversed(spaced))
