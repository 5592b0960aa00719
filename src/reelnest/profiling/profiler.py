"""Profiles the steps in `train.profile_steps`: a `torch.profiler` trace, and the time of a step by phase."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from reelnest.artifacts.training_report import StepBreakdown
from reelnest.profiling.phases import PHASES, EncodingModel, Phase, waiting, watched

log = logging.getLogger(__name__)

T = TypeVar("T")
RANGE = "reelnest: "
"""Prefix of the phases' ranges in a trace."""


@dataclass(frozen=True)
class Breakdown:
    """The time of one process's profiled steps, by phase. Phases do not overlap."""

    first: int
    last: int
    seconds: dict[Phase, float]
    """Mean over the profiled steps."""

    def report(self) -> StepBreakdown:
        """Returns the breakdown for `reports/training.json`."""
        total = sum(self.seconds.values())
        return StepBreakdown(
            steps=(self.first, self.last),
            seconds_per_step=round(total, 6),
            seconds={name: round(self.seconds[name], 6) for name in PHASES},
            share={name: round(self.seconds[name] / max(total, 1e-12), 4) for name in PHASES},
        )


class StepProfiler:
    """Profiles the steps from `first` to `last` (from 1) of a training, as far as they are in one epoch. None: no profile.

    While it runs, each change of phase synchronises with the GPU, so that times are exact. Profiled steps are slower than others.
    """

    def __init__(self, steps: tuple[int, int] | None, model: EncodingModel, folder: Path, rank: int) -> None:
        self._steps = steps
        self._model = model
        self._folder = folder
        self._rank = rank
        self._running: ExitStack | None = None
        self.trace: Path | None = None
        """This process's trace file, once it is written."""
        self.breakdown: Breakdown | None = None
        """The profiled steps' times, once they are done."""

    def over(self, items: Iterable[T], done: int) -> Iterator[T]:
        """Yields the items, one per step, after `done` steps, and profiles the requested steps. A step is the caller's work on an item."""
        if self._steps is None or self.trace is not None:
            yield from items
            return
        first, last = self._steps
        begun = done
        iterator = waiting(items)
        try:
            while True:
                if self._running is None and self.trace is None and first <= done + 1 <= last:
                    begun = done
                    self._begin()
                elif self._running is not None and done == last:
                    self._end(begun, done)
                item = next(iterator, None)
                if item is None:
                    return
                yield item
                done += 1
        finally:
            if self._running is not None:
                self._end(begun, done)

    def _begin(self) -> None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._running = ExitStack()
        self._profile = self._running.enter_context(profile(activities=activities, record_shapes=True))
        self._clock = self._running.enter_context(_Clock())
        self._running.enter_context(watched(self._model, self._clock.enter))

    def _end(self, begun: int, done: int) -> None:
        assert self._running is not None  # noqa: S101 (for the type checker)
        self._running.close()
        self._running = None
        steps = done - begun
        if not steps:
            return
        self.breakdown = Breakdown(begun + 1, done, {name: self._clock.seconds[name] / steps for name in PHASES})
        # TensorBoard's profiler page expects this file name.
        path = self._folder / f"rank-{self._rank}.steps-{begun + 1}-{done}.pt.trace.json.gz"
        self._folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".aside.{path.name}")
        self._profile.export_chrome_trace(str(aside))
        aside.replace(path)
        self.trace = path
        shares = sorted(self.breakdown.seconds.items(), key=lambda item: -item[1])
        total = max(sum(self.breakdown.seconds.values()), 1e-12)
        log.info(
            "profile of steps %d to %d: %.3f s a step: %s (%s)",
            begun + 1,
            done,
            total,
            ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in shares if seconds > 0),
            path,
        )


class _Clock:
    """Measures seconds by phase, and records each phase as a range of the trace."""

    def __init__(self) -> None:
        self.seconds: defaultdict[Phase, float] = defaultdict(float)
        self._now: Phase | None = None
        self._since = 0.0

    def __enter__(self) -> "_Clock":
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave()

    def enter(self, name: Phase) -> None:
        if name != self._now:
            self._leave()
            self._now = name
            self._range = record_function(RANGE + name)
            self._range.__enter__()

    def _leave(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._now is not None:
            self.seconds[self._now] += now - self._since
            self._range.__exit__(None, None, None)
        self._now, self._since = None, now
