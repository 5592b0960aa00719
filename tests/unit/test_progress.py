"""Progress of long work, with a clock that the test sets: what a line says, and that the innermost work is shown once."""

import io
import logging
import sys
import threading

import pytest

from reelnest import progress
from reelnest.progress import Activity, LogHandler, duration, show_innermost


class Clock:
    """A clock that stands still until the test changes it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(logging.INFO)
    return Clock()


def test_a_line_has_the_counts_a_note_the_rate_and_the_time_left(clock: Clock) -> None:
    with Activity("training", 400, "pair", done=100, clock=clock) as activity:
        assert activity.line() == "training: 100 of 400 pairs (25 %)"
        clock.now += 60
        activity.advance(150)
        activity.describe("step 5 of 8, loss 0.4813")
        # The rate leaves out the pairs of the earlier process.
        assert activity.line() == "training: 250 of 400 pairs (62 %), step 5 of 8, loss 0.4813, 2.5 a second, 1 min 0 s left"


def test_work_that_cannot_be_counted_shows_the_time(clock: Clock) -> None:
    with Activity("saving the model in MLflow", clock=clock) as activity:
        clock.now += 20
        assert activity.line() == "saving the model in MLflow: 20 s"


def test_only_the_innermost_activity_is_shown(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with Activity("train", clock=clock):
        for _ in Activity("decoding", 2, "video", clock=clock).over("ab"):
            show_innermost()
        show_innermost()
        with Activity("of another rank", shown=False, clock=clock):
            show_innermost()
    show_innermost()
    decoding = ["decoding: 0 of 2 videos (0 %)", "decoding: 1 of 2 videos (50 %), 1e+09 a second, 0 s left"]
    assert caplog.messages == [*decoding, "train: 0 s", "train: 0 s"]


def test_an_activity_that_fails_is_no_longer_shown(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyError), Activity("train", clock=clock):
        raise KeyError
    show_innermost()
    assert caplog.messages == []


def test_lines_come_while_a_step_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.001)
    shown = threading.Event()
    monkeypatch.setattr(Activity, "show", lambda _: shown.set())
    with Activity("register"):
        assert shown.wait(timeout=30)


def test_in_a_terminal_there_is_a_bar_with_log_lines_above_it(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = LogHandler(terminal)
    with Activity("decoding", 4, "video", clock=clock) as activity:
        activity.advance(2)
        show_innermost()
        handler.emit(logging.makeLogRecord({"msg": "a warning"}))
    printed = terminal.getvalue()
    assert "decoding:  50%" in printed
    assert "\ra warning\n" in printed.replace(" ", "").replace("awarning", "a warning")


@pytest.mark.parametrize(("seconds", "text"), [(45.4, "45 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_a_duration_is_in_the_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
