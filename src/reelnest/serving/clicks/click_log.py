"""The click log of one server. Requests only add to a list in memory; a thread writes the list to the disk every second."""

import logging
import re
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reelnest.errors import QueryError
from reelnest.serving.clicks.journals import JournalFullError, Journals, Kind
from reelnest.serving.repeated import Repeated
from reelnest.settings import Serve

log = logging.getLogger(__name__)

MOST_LOGGED = 50
"""Results of a search that are logged, the first ones. Few people look at more."""
MOST_WAITING = 20_000
"""Searches and clicks in memory while the disk takes none. Beyond this, new ones are dropped."""
FLUSH_SECONDS = 1.0
SEARCH_ID = re.compile(r"([0-9a-f]{1,12})-[0-9a-f]{16}")


class ClickLog:
    """Threads may share it. An error of the disk never reaches a request: one warning is logged, and writing is tried again."""

    def __init__(self, settings: Serve, folder: Path, clock: Callable[[], float] = time.time) -> None:
        """Call `start` to write every second, or `flush` by hand."""
        self._journals = Journals(folder, 60 * settings.click_log_minutes, 60 * settings.click_minutes)
        self._folder, self._clock = folder, clock
        self._waiting: list[tuple[int, dict[str, Any]]] = []
        self._entering, self._writing = threading.Lock(), threading.Lock()
        self._dropped, self._is_failing = 0, False
        self._full: int | None = None
        """The last period of which records were lost because its journal was full."""
        self._flushing = Repeated(self.flush, FLUSH_SECONDS, "click log")

    def start(self) -> None:
        """Starts to write. Periods that a killed server left are finished first."""
        self._flushing.start()

    def close(self) -> None:
        """Writes what is in memory, and stops."""
        self._flushing.close()
        self.flush()

    def add_search(self, session: str, query: str, items: Sequence[str], index: str, model_hash: str) -> str:
        """Logs a search and its results, best first. Returns the id with which its clicks are logged."""
        now = self._clock()
        start = self._journals.period_of(now)
        search = f"{start:x}-{secrets.token_hex(8)}"
        record = {"search": search, "query": query, "session": session, "time": now, "index": index, "model_hash": model_hash}
        self._add(start, {**record, "items": list(items[:MOST_LOGGED])})
        return search

    def add_mark(self, search: str, rank: int, kind: Kind) -> None:
        """Logs a click or a thumb on a result. Raises QueryError for an id that no search of the last time can have."""
        matched = SEARCH_ID.fullmatch(search)
        if matched is None or not self._journals.is_open(start := int(matched[1], 16), self._clock()):
            raise QueryError("search: expected the `search` of a response of /api/search, within the time in which clicks count.")
        if not 1 <= rank <= MOST_LOGGED:
            raise QueryError(f"rank: expected 1 to {MOST_LOGGED}.")
        self._add(start, {"search": search, "rank": rank, "kind": kind})

    def flush(self) -> None:
        """Writes what is in memory, and finishes periods that are over."""
        with self._writing:
            with self._entering:
                batch, self._waiting = self._waiting, []
                dropped, self._dropped = self._dropped, 0
            by_period: dict[int, list[dict[str, Any]]] = defaultdict(list)
            for start, record in batch:
                by_period[start].append(record)
            try:
                for start in list(by_period):
                    self._append(start, by_period[start])
                    del by_period[start]
                self._journals.finish(self._clock())
            except OSError as error:
                rest = [(start, record) for start, records in by_period.items() for record in records]
                with self._entering:
                    self._waiting, self._dropped = [*rest, *self._waiting], self._dropped + dropped
                if not self._is_failing:
                    log.warning("%s: searches and clicks cannot be logged (%s). Searches go on.", self._folder, error)
                self._is_failing = True
                return
            if self._is_failing or dropped:
                log.warning("%s: searches and clicks are logged again; %d were lost.", self._folder, dropped)
            self._is_failing = False

    def _append(self, start: int, records: Sequence[dict[str, Any]]) -> None:
        """Writes records of a period. Those that its journal has no room for are lost. Raises OSError."""
        try:
            self._journals.append(start, records)
        except JournalFullError as error:
            if start != self._full:
                log.warning("%s: %s. Further searches and clicks of its time are lost.", self._folder, error)
            self._full = start

    def _add(self, start: int, record: dict[str, Any]) -> None:
        with self._entering:
            if len(self._waiting) < MOST_WAITING:
                self._waiting.append((start, record))
            else:
                self._dropped += 1
