"""Where the marks of a line chart go."""

from itertools import pairwise

import pytest

from reelnest.report.charts.line_chart import BOTTOM, HEIGHT, LABEL_GAP, TOP, line_chart


def test_a_doubling_of_dims_is_the_same_distance_everywhere() -> None:
    (line,) = line_chart("x", {"all": {64: 0.5, 128: 0.6, 256: 0.7, 1024: 0.8}}).lines
    at = [mark.x for mark in line.marks]
    assert at[1] - at[0] == pytest.approx(at[2] - at[1])
    assert at[3] - at[2] == pytest.approx(2 * (at[1] - at[0]))


def test_heights_are_proportional_to_the_ticks() -> None:
    chart = line_chart("x", {"all": {16: 0.62, 32: 0.97}})
    for mark in chart.lines[0].marks:
        low, high = chart.y_ticks[0], chart.y_ticks[-1]
        share = (low.at - mark.y) / (low.at - high.at)
        assert float(low.text) + share * (float(high.text) - float(low.text)) == pytest.approx(mark.value)


@pytest.mark.parametrize("lowest", [0.0, 0.003, 0.31, 0.5, 0.899, 0.95, 0.999, 1.0])
def test_the_axis_holds_every_value_in_a_few_round_steps(lowest: float) -> None:
    chart = line_chart("x", {"all": {16: lowest, 32: 1.0}})
    ticks = [float(tick.text) for tick in chart.y_ticks]
    assert 0 <= ticks[0] <= lowest
    assert ticks[-1] == 1
    assert 3 <= len(ticks) <= 7
    assert len(set(ticks)) == len(ticks)


@pytest.mark.parametrize(("highest", "top"), [(0.004, 0.1), (0.1, 0.1), (0.11, 0.2), (0.4, 0.5), (0.51, 1.0)])
def test_the_axis_of_low_values_ends_soon_above_them(highest: float, top: float) -> None:
    chart = line_chart("x", {"all": {16: highest / 2, 32: highest}})
    assert float(chart.y_ticks[-1].text) == top
    assert len({tick.text for tick in chart.y_ticks}) == len(chart.y_ticks)
    assert chart.y_ticks[-1].at <= min(mark.y for mark in chart.lines[0].marks) + 1e-6


@pytest.mark.parametrize("ends", [(0.9, 0.9, 0.9, 0.9), (1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.01, 1.0), (0.2, 0.5, 0.51, 0.9)])
def test_names_of_lines_never_overlap_nor_leave_the_chart(ends: tuple[float, ...]) -> None:
    values = {f"kind{number}": {16: 0.1, 32: end} for number, end in enumerate(ends)}
    places = sorted(line.label_y for line in line_chart("x", values).lines)
    assert all(later - earlier >= LABEL_GAP - 1e-6 for earlier, later in pairwise(places))
    assert places[0] >= TOP - 6 - 1e-6
    assert places[-1] <= HEIGHT - BOTTOM + 4 + 1e-6


def test_names_keep_the_order_of_the_lines_and_stay_near_when_there_is_room() -> None:
    chart = line_chart("x", {"a": {16: 0.0, 32: 0.3}, "b": {16: 0.0, 32: 0.9}, "c": {16: 0.0, 32: 0.6}})
    ends = {line.kind: (line.marks[-1].y, line.label_y) for line in chart.lines}
    assert all(place == pytest.approx(end) for end, place in ends.values())


def test_one_dim_gives_a_point_in_the_middle() -> None:
    chart = line_chart("x", {"all": {64: 0.5}})
    assert chart.left < chart.lines[0].marks[0].x < chart.right


def test_crowded_dims_lose_their_names_but_never_the_full_width() -> None:
    chart = line_chart("x", {"all": dict.fromkeys(range(1000, 2001, 20), 0.5)})
    assert chart.x_ticks[-1].text == "2000"
    assert len(chart.x_ticks) < 12


def test_a_reference_level_stays_inside_the_axis() -> None:
    chart = line_chart("x", {"all": {16: 0.9, 32: 0.95}}, reference=(0.5, "coin toss"))
    assert chart.reference is not None
    assert chart.y_ticks[-1].at < chart.reference.at < chart.y_ticks[0].at


def test_a_band_goes_around_its_line_and_inside_the_axis() -> None:
    intervals = {"all": {16: (0.2, 0.45), 32: (0.5, 0.7)}}
    chart = line_chart("x", {"all": {16: 0.4, 32: 0.6}, "other": {16: 0.4, 32: 0.6}}, intervals=intervals)
    line, other = chart.lines
    assert other.band == ""
    corners = [tuple(map(float, corner.split(","))) for corner in line.band.split()]
    assert [x for x, _ in corners] == pytest.approx([mark.x for mark in (*line.marks, *line.marks[::-1])], abs=0.1)
    for mark in line.marks:
        assert mark.ends is not None
        assert mark.ends[1] < mark.y < mark.ends[0] <= chart.y_ticks[0].at
