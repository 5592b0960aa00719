"""Follows indexes that are built again while a server runs: the new version is opened beside the old one, then takes its place."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from reelnest.engines.engine import is_address, open_engine, shown
from reelnest.engines.folder_files import MANIFEST_FILE
from reelnest.errors import ReelnestError
from reelnest.serving.searcher import Searcher

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
LONGEST_REQUEST_SECONDS = 300.0
"""After this time, no request uses a searcher that was replaced, and it is closed."""

Open = Callable[[Sequence[str]], Sequence[Searcher]]


def _version(location: str) -> object | None:
    """What changes when an index has to be opened again; None if there is no index at the moment.

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
    """The searchers by name. Requests take one from `searchers` and use it to their end, so no answer mixes two versions."""

    def __init__(self, locations: Sequence[str], open_all: Open) -> None:
        """`open_all` opens indexes with their models. Raises what it raises."""
        self._open = open_all
        versions = [_version(location) for location in locations]  # before they are opened
        self.searchers = named(open_all(locations))
        self._locations = dict(zip(self.searchers, locations, strict=True))
        self._versions = dict(zip(self.searchers, versions, strict=True))
        self.look()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="following", daemon=True)

    def start(self) -> None:
        """Looks for new versions every POLL_SECONDS."""
        self._thread.start()

    def close(self) -> None:
        """Stops, and closes the models."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        for searcher in self.searchers.values():
            searcher.close()
            searcher.model.close()

    def look(self) -> None:
        """Opens what has a new version. An index that cannot be opened is reported once, and the old version stays."""
        for name, location in self._locations.items():
            current = _version(location)
            if current is None or current == self._versions[name]:
                continue
            try:
                (opened,) = self._open([location])
            except (ReelnestError, OSError) as error:
                if _version(location) == current:
                    log.warning("%s: a new version cannot be opened, so the old one is served: %s", shown(location), error)
                    self._versions[name] = current
                continue
            if _version(location) != current:
                self._close(opened)  # it was replaced meanwhile, so what was read may be of two versions
                continue
            before, self.searchers[name], self._versions[name] = self.searchers[name], opened, current
            log.warning("%s: a new version is served, %d videos, model %s", shown(location), opened.manifest.videos, opened.manifest.model)
            later = threading.Timer(LONGEST_REQUEST_SECONDS, self._close, [before])
            later.daemon = True
            later.start()

    def _close(self, before: Searcher) -> None:
        before.close()
        if all(before.model is not each.model for each in self.searchers.values()):
            before.model.close()

    def _run(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            try:
                self.look()
            except Exception:
                log.exception("an index cannot be followed")


def named(searchers: Sequence[Searcher]) -> dict[str, Searcher]:
    """Returns the searchers by the name of their index, which is its folder's; a repeated name gets a number."""
    by_name: dict[str, Searcher] = {}
    for searcher in searchers:
        name, number = searcher.name, 1
        while (name if number == 1 else f"{name}-{number}") in by_name:
            number += 1
        by_name[name if number == 1 else f"{name}-{number}"] = searcher
    return by_name
