"""Mutual exclusion for decisions about a model's aliases, across processes and machines.

MLflow has no locks and cannot compare and set an alias, but it reads and writes a tag atomically. With one tag for each deciding process,
the one-bit algorithm gives mutual exclusion (Lamport 1986, The mutual exclusion problem, part II, https://doi.org/10.1145/5383.5385):

1. Wait until no process with a smaller name has set its tag, then set our tag.
2. If such a process has set its tag in the meantime, delete our tag and start again.
3. Wait until the processes with larger names have deleted their tags. They do so when they see ours, unless they are deciding.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlflow

PREFIX = "reelnest.deciding."
SECONDS_BETWEEN_LOOKS = 0.2
ABANDONED_AFTER = 120.0
"""Seconds. A decision takes a few seconds, so a tag that is seen for longer than this belongs to a killed process."""

log = logging.getLogger(__name__)


@contextmanager
def deciding(name: str) -> Iterator[None]:
    """Excludes other processes that decide about the registered model `name`. Raises MlflowException if MLflow cannot be reached."""
    client = mlflow.MlflowClient()
    own = PREFIX + secrets.token_hex(8)
    others = _OtherTags(name, own)
    try:
        while True:
            others.wait(lambda tag: tag < own)
            client.set_registered_model_tag(name, own, "waits or decides")
            if not others.present(lambda tag: tag < own):
                break
            client.delete_registered_model_tag(name, own)
        others.wait(lambda tag: tag > own)
        yield
    finally:
        client.delete_registered_model_tag(name, own)


class _OtherTags:
    """The tags of other processes, and when each of them was first seen."""

    def __init__(self, name: str, own: str) -> None:
        self._client = mlflow.MlflowClient()
        self._name = name
        self._own = own
        self._seen: dict[str, float] = {}

    def present(self, counts: Callable[[str], bool]) -> list[str]:
        tags = self._client.get_registered_model(self._name).tags
        others = [tag for tag in tags if tag.startswith(PREFIX) and tag != self._own]
        now = time.monotonic()
        self._seen = {tag: self._seen.get(tag, now) for tag in others}
        for tag in others:
            if now - self._seen[tag] > ABANDONED_AFTER:
                log.warning("%s: a process ended while it decided about the aliases; its tag is removed", self._name)
                self._client.delete_registered_model_tag(self._name, tag)
                del self._seen[tag]
        return [tag for tag in self._seen if counts(tag)]

    def wait(self, counts: Callable[[str], bool]) -> None:
        while self.present(counts):
            time.sleep(SECONDS_BETWEEN_LOOKS)
