"""The geometry of paired bars: the shares of two versions of the data, side by side in each bin."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reelnest.report.charts.line_chart import Tick, apart

WIDTH, HEIGHT = 480, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 6, 8, 26
GAP = 0.15
"""Space on each side of the two bars of a bin, as a fraction of the bin."""
TOPS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Possible ends of the y axis below 1. The smallest that fits is used."""
TICKS = 2
MOST_EDGES = 7


@dataclass(frozen=True)
class Bar:
    """One version's share of a bin."""

    side: int
    """0 for the data before, 1 for the new data."""
    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class PairedBars:
    """A chart of shares."""

    title: str
    axes: str
    """What the axes show, with the unit."""
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def of_histogram(title: str, histogram: Mapping[str, Sequence[float]], unit: str) -> PairedBars:
    """Returns the chart of a histogram with `edges` and the shares `before` and `after` (`measures.histogram`). The last bin is open."""
    edges = histogram["edges"]
    bins = len(edges) - 1
    names = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)]
    names[-1] = f"{edges[-2]:.4g} and more"
    every = -(-bins // (MOST_EDGES - 1))
    ticks = [Tick(_x(at, bins), f"{edges[at]:.3g}") for at in range(0, bins, every)]
    return PairedBars(title, f"share by {unit}", *_drawn(names, histogram["before"], histogram["after"], ticks))


def of_counts(title: str, before: Mapping[str, int], after: Mapping[str, int], name: Mapping[str, str]) -> PairedBars:
    """Returns the chart of counts by kind. `name` has the label of each kind, in the order of the chart."""
    kinds = list(name)
    ticks = [Tick(_x(at + 0.5, len(kinds)), name[kind]) for at, kind in enumerate(kinds)]
    shares_before, shares_after = ([side.get(kind, 0) / max(1, sum(side.values())) for kind in kinds] for side in (before, after))
    return PairedBars(title, "share by kind", *_drawn([name[kind] for kind in kinds], shares_before, shares_after, ticks))


def _drawn(
    names: Sequence[str], before: Sequence[float], after: Sequence[float], ticks: Sequence[Tick]
) -> tuple[tuple[Bar, ...], tuple[Tick, ...], tuple[Tick, ...]]:
    highest = max([*before, *after], default=1.0)
    top = next((end for end in TOPS if highest <= end), 1.0)
    room = HEIGHT - BOTTOM - TOP
    share = (1 - 2 * GAP) / 2
    bars = []
    for at, name in enumerate(names):
        for side, shares in enumerate((before, after)):
            height = room * shares[at] / top
            x = _x(at + GAP + side * share, len(names))
            width = _x(at + GAP + (side + 1) * share, len(names)) - x
            tooltip = f"{name}: {shares[at]:.1%} {('before', 'new')[side]}"
            bars.append(Bar(side, x, HEIGHT - BOTTOM - height, width, height, tooltip))
    levels = [top * number / TICKS for number in range(TICKS + 1)]
    return tuple(bars), apart(ticks), tuple(Tick(HEIGHT - BOTTOM - room * level / top, f"{level:.3g}") for level in levels)


def _x(place: float, bins: int) -> float:
    return LEFT + (WIDTH - RIGHT - LEFT) * place / bins
