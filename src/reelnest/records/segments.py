"""Segments: a part of a video file between two times, which is a video of its own without a copy of the file."""

import math
from dataclasses import dataclass
from typing import Any

from reelnest.records.json_lines import RecordError, show, show_kind

SEGMENT_KEYS = ("start", "end")
DECIMALS = 6
EXPECTED = "expected seconds with 0 ≤ start < end"


@dataclass(frozen=True)
class Segment:
    """Times in seconds, as a player counts them."""

    start: float
    end: float | None
    """None is the end of the file."""

    def __str__(self) -> str:
        """Returns the times as text, such as `5 s to 12.5 s`."""
        return f"{_number(self.start)} s to {'the end' if self.end is None else f'{_number(self.end)} s'}"

    @property
    def fragment(self) -> str:
        """For example `#t=5,12.5`, the form of addresses (https://www.w3.org/TR/media-frags/). `#t=5` has no end."""
        return f"#t={_number(self.start)}" + ("" if self.end is None else f",{_number(self.end)}")

    def shares(self, segment: "Segment") -> float:
        """Returns the time that both contain, as a share of the time that either does; 1 if both end with the file."""
        if self.end is None or segment.end is None:
            return float(self.end is segment.end)
        both = min(self.end, segment.end) - max(self.start, segment.start)
        return max(0.0, both) / (max(self.end, segment.end) - min(self.start, segment.start))

    @property
    def record(self) -> dict[str, float]:
        """The keys of a record."""
        return {"start": self.start} | ({} if self.end is None else {"end": self.end})


def segment_of(start: float | None, end: float | None) -> Segment | None:
    """Returns the segment with stored times; None without a start, for a whole file."""
    return None if start is None else Segment(start, end)


def parse_segment(record: dict[str, Any], where: str = "") -> Segment | None:
    """Returns the segment that a record's `start` and `end` name; None if it has neither. `where` precedes their names in errors.

    Without `start` it begins with the file, without `end` it ends with it. Raises RecordError (`bad_segment`).
    """
    if "start" not in record and "end" not in record:
        return None
    start = _seconds(record.get("start", 0), f"{where}start")
    end = _seconds(record["end"], f"{where}end") if "end" in record else None
    if end is not None and start >= end:
        raise RecordError("bad_segment", f"{where}start is {start:g} and {where}end is {end:g}; {EXPECTED}")
    return Segment(start, end)


def _seconds(value: Any, where: str) -> float:
    # In Python a bool is an int, but "start": true is a mistake.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecordError("bad_segment", f"{where} is {show_kind(value)}; {EXPECTED}")
    try:
        seconds = round(float(value), DECIMALS)
    except OverflowError:
        seconds = math.inf
    if not 0 <= seconds < math.inf:
        raise RecordError("bad_segment", f"{where} is {show(value)}; {EXPECTED}")
    return seconds + 0.0  # no negative zero


def _number(seconds: float) -> str:
    return f"{seconds:.{DECIMALS}f}".rstrip("0").rstrip(".")
