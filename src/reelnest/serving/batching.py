"""Encodes the queries of concurrent requests in batches."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from reelnest.store.entries import Entry

Encode = Callable[[Sequence[Entry]], NDArray[np.float32]]
LARGEST_BATCH = 64


class BatchedEncoder:
    """Threads share one encoder. What arrives while a batch is encoded becomes the next batch, so a query alone waits for nothing."""

    def __init__(self, encode: Encode) -> None:
        """`encode` returns the vectors of entries, (entries, width). It is called by one thread at a time."""
        self._encode = encode
        self._waiting: list[tuple[Entry, Future[NDArray[np.float32]]]] = []
        self._entering = threading.Lock()
        self._encoding = threading.Lock()

    def encode(self, entries: Sequence[Entry]) -> NDArray[np.float32]:
        """The vectors of entries, (entries, width). Raises what the encoder raises for the first of them that it cannot encode."""
        waiting = [(entry, Future[NDArray[np.float32]]()) for entry in entries]
        with self._entering:
            self._waiting.extend(waiting)
        for _, vector in waiting:
            while not vector.done():
                with self._encoding:  # whoever comes in first encodes for all that wait
                    if not vector.done():
                        self._encode_waiting()
        return np.stack([vector.result() for _, vector in waiting])

    def _encode_waiting(self) -> None:
        with self._entering:
            batch, self._waiting = self._waiting[:LARGEST_BATCH], self._waiting[LARGEST_BATCH:]
        try:
            vectors = self._encode([entry for entry, _ in batch])
        except Exception as error:  # noqa: BLE001 (it is raised by `encode`)
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for entry, vector in batch:  # one entry's fault is not the others'
                try:
                    vector.set_result(self._encode([entry])[0])
                except Exception as own:  # noqa: BLE001
                    vector.set_exception(own)
            return
        for (_, vector), encoded in zip(batch, vectors, strict=True):
            vector.set_result(encoded)
