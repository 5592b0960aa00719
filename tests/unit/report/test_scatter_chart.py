"""Where the marks of a scatter and of a table's intervals go."""

import math

import pytest

from reelnest.report.charts.interval_bars import WIDTH, interval_bars
from reelnest.report.charts.scatter_chart import ASIDE, Point, scatter_chart


def chart(costs: tuple[float, ...] = (8.0, 64.0, 512.0), values: tuple[float, ...] = (0.5, 0.7, 0.9)) -> list[tuple[float, float]]:
    points = [Point(str(cost), cost, value) for cost, value in zip(costs, values, strict=True)]
    (series,) = scatter_chart("x", "bytes", {"float32": points}).series
    return [(spot.x, spot.y) for spot in series.spots]


def test_equal_ratios_of_cost_are_equal_distances() -> None:
    (first, _), (second, _), (third, _) = chart()
    assert second - first == pytest.approx(third - second)


def test_points_stand_by_rising_cost_whatever_order_they_came_in() -> None:
    assert chart((512.0, 8.0, 64.0), (0.9, 0.5, 0.7)) == chart()


def test_ticks_stand_where_their_costs_would() -> None:
    made = scatter_chart("x", "bytes", {"float32": [Point("a", 8, 0.5), Point("b", 2048, 0.9)]})
    first, last = made.series[0].spots
    sizes = {"k": 1e3}
    for tick in made.x_ticks:
        value = float(tick.text.rstrip("k")) * sizes.get(tick.text[-1], 1)
        assert (tick.at - first.x) / (last.x - first.x) == pytest.approx(math.log(value / 8) / math.log(2048 / 8))
    assert len(made.x_ticks) >= 3


@pytest.mark.parametrize("costs", [(64.0,), (64.0, 64.0), (0.4, 90_000_000.0)])
def test_all_marks_and_ticks_lie_inside(costs: tuple[float, ...]) -> None:
    points = [Point(str(number), cost, 0.5, (0.3, 0.6)) for number, cost in enumerate(costs)]
    made = scatter_chart("x", "bytes", {"float32": points, "int8": points})
    for series in made.series:
        for spot in series.spots:
            assert made.left < spot.x < made.right
            assert spot.ends is not None
            assert 0 < spot.ends[1] < spot.y < spot.ends[0] <= made.y_ticks[0].at
    assert made.x_ticks
    assert all(made.left < tick.at < made.right for tick in made.x_ticks)


def test_series_stand_a_little_aside_of_each_other_and_only_some_are_joined() -> None:
    points = [Point("a", 8, 0.5), Point("b", 64, 0.6)]
    one, other = scatter_chart("x", "bytes", {"float32": points, "funnel": points}, joined=["float32"]).series
    assert other.spots[0].x - one.spots[0].x == pytest.approx(ASIDE)
    assert (bool(one.points), bool(other.points)) == (True, False)


def test_all_bars_have_one_scale_and_differences_have_0_in_the_middle() -> None:
    better, worse = interval_bars([(0.02, 0.01, 0.04), (-0.01, -0.02, 0.0)], around_zero=True)
    assert better.zero == worse.zero == worse.high == WIDTH / 2
    assert better.at - WIDTH / 2 == pytest.approx(2 * (WIDTH / 2 - worse.at))
    low, high = interval_bars([(0.5, 0.4, 0.6), (0.8, 0.7, 0.9)])
    assert low.zero is None
    assert 0 < low.low < low.at < low.high < high.low < high.at < high.high < WIDTH


@pytest.mark.parametrize("around_zero", [False, True])
def test_bars_without_length_stand_in_the_middle(around_zero: bool) -> None:
    (bar,) = interval_bars([(0.0, 0.0, 0.0)], around_zero=around_zero)
    assert bar.low == bar.at == bar.high == WIDTH / 2
    assert interval_bars([], around_zero=around_zero) == []
