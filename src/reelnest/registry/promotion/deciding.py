"""One decision about a model's aliases at a time, wherever the deciding processes run.

MLflow changes an alias without asking what it was, and has no locks; but a tag is written and read whole. With one tag for each process
that wants to decide, the one-bit algorithm keeps them apart (Lamport 1986, The mutual exclusion problem, part II,
https://doi.org/10.1145/5383.5385):

1. Raise the own tag, when no process that goes before us (by name) has raised its.
2. If one did so meanwhile, lower it and begin again.
3. Wait until those that come after us have lowered theirs: they do, when they see ours, unless they are deciding.
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
"""Seconds. A tag that stood so long before our eyes is of a process that was killed; a decision takes a few seconds."""

log = logging.getLogger(__name__)


@contextmanager
def deciding(name: str) -> Iterator[None]:
    """Inside, no other process decides about the registered model `name`. Raises MlflowException where MLflow cannot be reached."""
    client = mlflow.MlflowClient()
    own = PREFIX + secrets.token_hex(8)
    others = _Others(name, own)
    try:
        while True:
            others.wait(lambda tag: tag < own)
            client.set_registered_model_tag(name, own, "waits or decides")
            if not others.raised(lambda tag: tag < own):
                break
            client.delete_registered_model_tag(name, own)
        others.wait(lambda tag: tag > own)
        yield
    finally:
        client.delete_registered_model_tag(name, own)


class _Others:
    """The tags of other processes, and since when each of them is seen."""

    def __init__(self, name: str, own: str) -> None:
        self._client = mlflow.MlflowClient()
        self._name = name
        self._own = own
        self._seen: dict[str, float] = {}

    def raised(self, counts: Callable[[str], bool]) -> list[str]:
        tags = self._client.get_registered_model(self._name).tags
        present = [tag for tag in tags if tag.startswith(PREFIX) and tag != self._own]
        now = time.monotonic()
        self._seen = {tag: self._seen.get(tag, now) for tag in present}
        for tag in present:
            if now - self._seen[tag] > ABANDONED_AFTER:
                log.warning("%s: a process that was deciding about its aliases is gone; going on without it", self._name)
                self._client.delete_registered_model_tag(self._name, tag)
                del self._seen[tag]
        return [tag for tag in self._seen if counts(tag)]

    def wait(self, counts: Callable[[str], bool]) -> None:
        while self.raised(counts):
            time.sleep(SECONDS_BETWEEN_LOOKS)
