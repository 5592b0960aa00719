"""Layout of a scatter chart of quality against a cost on a log axis, which a template draws as inline SVG."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reelnest.report.charts.line_chart import Tick, apart, axis_top, scale

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 38, 14, 24, 34
ASIDE = 3.0
"""Pixels between series, so that marks of equal cost do not overlap."""
LEAST_RATIO = 4.0
"""Least ratio of the ends of the cost axis."""


@dataclass(frozen=True)
class Point:
    """A value to draw."""

    name: str
    cost: float
    value: float
    interval: tuple[float, float] | None = None
    cost_range: tuple[float, float] | None = None
    """The lowest and the highest measured cost."""


@dataclass(frozen=True)
class Spot:
    """The coordinates of a point."""

    point: Point
    x: float
    y: float
    ends: tuple[float, float] | None
    """The y coordinates of its interval, lower end first."""
    cost_ends: tuple[float, float] | None
    """The x coordinates of its range of costs."""
    anchor: str
    """SVG's `text-anchor` of the label: `start`, `middle` or `end`."""


@dataclass(frozen=True)
class Series:
    """Spots of one series, by rising cost."""

    name: str
    spots: tuple[Spot, ...]
    is_joined: bool

    @property
    def points(self) -> str:
        """The points of an SVG `polyline`; empty if the spots are not joined."""
        return " ".join(f"{spot.x:.1f},{spot.y:.1f}" for spot in self.spots) if self.is_joined else ""


@dataclass(frozen=True)
class ScatterChart:
    """Values between 0 and 1 against a cost above 0."""

    title: str
    cost: str
    series: tuple[Series, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM

    @property
    def scale(self) -> str:
        """The ends of the value axis."""
        return f"{self.y_ticks[0].text} to {self.y_ticks[-1].text}"


def scatter_chart(title: str, cost: str, series: Mapping[str, Sequence[Point]], *, joined: Sequence[str] = ()) -> ScatterChart:
    """Lays out `series`, each with at least one point. Those named in `joined` get a line through their points."""
    points = [point for of_series in series.values() for point in of_series]
    levels = [end for point in points for end in (point.interval or (point.value,))]
    top = axis_top(max(levels))
    step, lowest = scale(min(levels), top)
    costs = [cost for point in points for cost in (point.cost_range or (point.cost,))]
    cheapest, dearest = min(costs), max(costs)
    if dearest / cheapest < LEAST_RATIO:
        middle = math.sqrt(cheapest * dearest)
        cheapest, dearest = middle / math.sqrt(LEAST_RATIO), middle * math.sqrt(LEAST_RATIO)
    begin, end = LEFT + 14, WIDTH - RIGHT - 14

    def x(value: float) -> float:
        return begin + (end - begin) * math.log(value / cheapest) / math.log(dearest / cheapest)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value - lowest) / (top - lowest)

    def spot(point: Point, aside: float) -> Spot:
        at = x(point.cost) + aside
        ends = None if point.interval is None else (y(point.interval[0]), y(point.interval[1]))
        cost_ends = None if point.cost_range is None else (x(point.cost_range[0]) + aside, x(point.cost_range[1]) + aside)
        third = (end - begin) / 3
        anchor = "start" if at < begin + third else "end" if at > end - third else "middle"
        return Spot(point, at, y(point.value), ends, cost_ends, anchor)

    laid = [
        Series(
            name,
            tuple(spot(point, ASIDE * (number - (len(series) - 1) / 2)) for point in sorted(of_series, key=lambda point: point.cost)),
            name in joined,
        )
        for number, (name, of_series) in enumerate(series.items())
    ]
    count = round((top - lowest) / step)
    return ScatterChart(
        title=title,
        cost=cost,
        series=tuple(laid),
        x_ticks=apart([Tick(x(value), _short(value)) for value in _round_values(cheapest, dearest)]),
        y_ticks=tuple(
            Tick(y(lowest + number * step), f"{lowest + number * step:.{2 if step < 0.1 else 1}f}") for number in range(count + 1)
        ),
    )


def _round_values(low: float, high: float) -> Iterator[float]:
    """Returns 1, 2 and 5 times the powers of ten, from `low` to `high`."""
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        yield from (factor * 10.0**exponent for factor in (1, 2, 5) if low * 0.999 <= factor * 10.0**exponent <= high * 1.001)


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
