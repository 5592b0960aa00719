"""Follows indexes that are built again while a server runs: the new version is opened beside the old one, then takes its place."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from reelnest.engines.engine import is_address, open_engine, shown
from reelnest.engines.folder_files import MANIFEST_FILE
from reelnest.errors import ReelnestError
from reelnest.serving.repeated import Repeated
from reelnest.serving.searcher import OpenModel, Searcher

log = logging.getLogger(__name__)

POLL_SECONDS = 10.0
"""Each look at the index of a server opens a connection."""
LONGEST_REQUEST_SECONDS = 300.0
"""After this time, no request uses a searcher that was replaced, and it is closed."""

Open = Callable[[Sequence[str], Sequence[OpenModel]], Sequence[Searcher]]


def _version(location: str) -> object | None:
    """Returns what changes when an index has to be opened again; None if there is no index at the moment.

    The engines of servers follow to new versions of the same model themselves, so for addresses it is the model's hash.
    """
    try:
        if not is_address(location):
            status = (Path(location) / MANIFEST_FILE).stat()
            return status.st_dev, status.st_ino, status.st_mtime_ns
        engine = open_engine(location)
        try:
            return engine.manifest.model_hash
        finally:
            engine.close()
    except (ReelnestError, OSError):
        return None


class Followed:
    """The searchers by name. Requests take one from `searchers` and use it to their end, so no response mixes two versions."""

    def __init__(self, locations: Sequence[str], open_all: Open) -> None:
        """`open_all` opens indexes with their models, for which it uses those that are open. Raises what it raises."""
        self._open = open_all
        versions = [_version(location) for location in locations]  # before they are opened
        self.searchers = named(open_all(locations, ()))
        self._locations = dict(zip(self.searchers, locations, strict=True))
        self._versions = dict(zip(self.searchers, versions, strict=True))
        self._replaced: list[tuple[float, Searcher]] = []
        """With the time of the replacement, the earliest first."""
        self._looking = Repeated(self.look, POLL_SECONDS, "following indexes")

    def start(self) -> None:
        """Looks for new versions every POLL_SECONDS."""
        self._looking.start()

    def close(self) -> None:
        """Stops, and closes the indexes and the models."""
        self._looking.close()
        for searcher in self._open_searchers():
            searcher.close()
            searcher.model.close()

    def look(self) -> None:
        """Opens what has a new version, and closes what no request uses any more.

        An index that cannot be opened is reported once, and the old version stays.
        """
        while self._replaced and self._replaced[0][0] < time.monotonic() - LONGEST_REQUEST_SECONDS:
            self._close(self._replaced.pop(0)[1])
        for name, location in self._locations.items():
            current = _version(location)
            if current is None or current == self._versions[name]:
                continue
            try:
                (opened,) = self._open([location], [searcher.model for searcher in self._open_searchers()])
            except (ReelnestError, OSError) as error:
                if _version(location) == current:
                    log.warning("%s: a new version cannot be opened, so the old one is served: %s", shown(location), error)
                    self._versions[name] = current
                continue
            if _version(location) != current:
                self._close(opened)  # it was replaced meanwhile, so what was read may be of two versions
                continue
            self._replaced.append((time.monotonic(), self.searchers[name]))
            self.searchers[name], self._versions[name] = opened, current
            log.warning("%s: a new version is served, %d videos, model %s", shown(location), opened.manifest.videos, opened.manifest.model)

    def _open_searchers(self) -> list[Searcher]:
        return [*self.searchers.values(), *(searcher for _, searcher in self._replaced)]

    def _close(self, unused: Searcher) -> None:
        unused.close()
        if all(unused.model is not searcher.model for searcher in self._open_searchers()):
            unused.model.close()


def named(searchers: Sequence[Searcher]) -> dict[str, Searcher]:
    """Returns the searchers by the name of their index, which is its folder's; a repeated name gets a number."""
    by_name: dict[str, Searcher] = {}
    for searcher in searchers:
        name, number = searcher.name, 1
        while (name if number == 1 else f"{name}-{number}") in by_name:
            number += 1
        by_name[name if number == 1 else f"{name}-{number}"] = searcher
    return by_name
