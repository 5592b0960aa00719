from itertools import pairwise
from pathlib import Path

import pytest

from reelnest.errors import ConfigError
from reelnest.serving.windows import window_times
from reelnest.settings import Index, check_params


def test_windows_follow_one_another_to_the_end_of_the_video() -> None:
    assert window_times(30.0, 10.0, 0.0) == [(0, 10), (10, 20), (20, 30)]
    assert window_times(25.0, 10.0, 0.0) == [(0, 10), (10, 20), (20, 25)]
    assert window_times(22.0, 10.0, 0.0) == [(0, 10), (10, 22)]  # a short rest is no window of its own
    assert window_times(12.0, 10.0, 0.0) == [(0, 12)]
    assert window_times(4.0, 10.0, 0.0) == [(0, 4)]


def test_windows_overlap() -> None:
    assert window_times(25.0, 10.0, 5.0) == [(0, 10), (5, 15), (10, 20), (15, 25)]


@pytest.mark.parametrize("seconds", [10.1, 37.3, 100.0, 3599.96])
@pytest.mark.parametrize("overlap", [0.0, 1.5, 5.0])
def test_windows_cover_the_video_and_differ_little_in_length(seconds: float, overlap: float) -> None:
    times = window_times(seconds, 10.0, overlap)
    assert (times[0][0], times[-1][1]) == (0, seconds)
    assert all(after[0] == pytest.approx(before[1] - overlap) for before, after in pairwise(times))
    assert all(end - start == 10 for start, end in times[:-1])
    assert 2.5 <= times[-1][1] - times[-1][0] < 12.5


def test_an_overlap_of_more_than_half_a_window_is_an_error() -> None:
    assert Index(window_seconds=10.0, window_overlap_seconds=5.0).window_overlap_seconds == 5
    with pytest.raises(ConfigError, match=r"index\.window_overlap_seconds: 6 is more than half of window_seconds, 10"):
        check_params({"index": {"window_seconds": 10.0, "window_overlap_seconds": 6.0}}, Path("params.yaml"))
