"""Where the marks of a line chart go: quality against dim, as numbers that a template turns into inline SVG.

Drawn by hand and not by a plotting library, so that its colours follow the page from light to dark, its text is text, and each line carries
its name and last value at its end, where the eye is, in place of a legend.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 38, 140, 14, 34
LABEL_GAP = 17
"""Least distance between the names of two lines, so that they never lie on each other."""
STEPS = (0.02, 0.05, 0.1, 0.2)
LEAST_SPAN = 0.1
"""Of the axis: what differs by less shall look flat."""
MOST_TICKS = 6
TOPS = (0.1, 0.2, 0.5)
"""Ends of axes whose values stay below; of others it is 1."""


@dataclass(frozen=True)
class Mark:
    """One value of a line."""

    x: float
    y: float
    dim: int
    value: float
    ends: tuple[float, float] | None = None
    """Of its interval, from below: y."""


@dataclass(frozen=True)
class Line:
    """The values of one pair kind, and the place of its name at the right."""

    kind: str
    marks: tuple[Mark, ...]
    label_y: float

    @property
    def points(self) -> str:
        """For SVG's `polyline`."""
        return " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in self.marks)

    @property
    def band(self) -> str:
        """The intervals, for SVG's `polygon`; empty where a mark has none."""
        known = [(mark.x, mark.ends) for mark in self.marks if mark.ends is not None]
        if len(known) < len(self.marks):
            return ""
        around = [(x, low) for x, (low, _) in known] + [(x, high) for x, (_, high) in reversed(known)]
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in around)


@dataclass(frozen=True)
class Tick:
    """A place on an axis."""

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


def line_chart(
    title: str,
    values: Mapping[str, Mapping[int, float]],
    reference: tuple[float, str] | None = None,
    *,
    intervals: Mapping[str, Mapping[int, tuple[float, float]]] | None = None,
) -> LineChart:
    """Lays out one line a pair kind: `values[kind][dim]`, each between 0 and 1.

    The axis begins below the lowest value rather than at 0: lines are read by their slope, and the trade-off between dims is small beside
    the values themselves. `reference` is a level to compare with and its name, `intervals` the lower and upper ends for all or some of the
    values.
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
    """The distance of ticks on an axis up to `top`, and its lower end: a tick below the smallest value, unless that is 0."""
    for step in STEPS:
        span = max(LEAST_SPAN, top - smallest + step / 5)
        lowest = max(0.0, round(top - math.ceil(span / step - 1e-9) * step, 10))
        if (top - lowest) / step <= MOST_TICKS - 1 + 1e-9:
            return step, lowest
    return STEPS[-1], 0.0


def axis_top(highest: float) -> float:
    """The end of an axis that holds `highest`: a poor model's figures are read as well as a good one's."""
    return next((top for top in TOPS if highest <= top), 1.0)


def _spread(wanted: Mapping[str, float]) -> dict[str, float]:
    """Moves labels apart, as little as keeps their order and the chart's edges."""
    order = sorted(wanted, key=lambda kind: wanted[kind])
    placed: list[float] = []
    for kind in order:
        placed.append(max(wanted[kind], placed[-1] + LABEL_GAP) if placed else wanted[kind])
    # Pushed down so far, the group hangs too low: lift it to where its middle is wanted, then clear the bottom.
    for end in range(len(placed) - 1, -1, -1):
        start = end
        while start > 0 and placed[start] - placed[start - 1] <= LABEL_GAP:
            start -= 1
        group = range(start, end + 1)
        lift = sum(placed[number] - wanted[order[number]] for number in group) / len(group)
        room = placed[start] - (placed[start - 1] + LABEL_GAP if start else TOP - 6)
        for number in group:
            placed[number] -= max(0.0, min(lift, room))
    lowest = float(HEIGHT - BOTTOM + 4)
    for number in range(len(placed) - 1, -1, -1):
        placed[number] = min(placed[number], lowest)
        lowest = placed[number] - LABEL_GAP
    return dict(zip(order, placed, strict=True))


def apart(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """Leaves out the ticks whose text would run into the next one's; the last always stays, since it is the full width."""
    kept: list[Tick] = []
    for tick in reversed(ticks):
        if not kept or kept[-1].at - tick.at >= 8 + 3.5 * (len(kept[-1].text) + len(tick.text)):
            kept.append(tick)
    return tuple(reversed(kept))
