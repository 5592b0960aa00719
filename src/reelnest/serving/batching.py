"""Encodes the queries of concurrent requests in batches."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from reelnest.store.entries import Entry

Encode = Callable[[Sequence[Entry]], NDArray[np.float32]]
LARGEST_BATCH = 64

_Waiting = tuple[Entry, Future[NDArray[np.float32]]]


class BatchedEncoder:
    """Threads share one encoder, which has a thread of its own. What arrives while a batch is encoded becomes the next batch.

    So a query alone waits for nothing. A thread that waits wakes only for its own vectors: with a lock around the encoder, each batch would
    wake all threads in turn before the next one could begin.
    """

    def __init__(self, encode: Encode) -> None:
        """`encode` returns the vectors of entries, (entries, width). It is called by one thread at a time."""
        self._encode = encode
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def encode(self, entries: Sequence[Entry]) -> NDArray[np.float32]:
        """The vectors of entries, (entries, width). Raises what the encoder raises for the first of them that it cannot encode."""
        vectors = [Future[NDArray[np.float32]]() for _ in entries]
        for entry, vector in zip(entries, vectors, strict=True):
            self._waiting.put((entry, vector))
        return np.stack([vector.result() for vector in vectors])

    def close(self) -> None:
        """Ends the thread, after what waits."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            while len(batch) < LARGEST_BATCH and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    self._waiting.put(None)  # ends the loop after this batch
                    break
                batch.append(following)
            self._encode_batch(batch)

    def _encode_batch(self, batch: Sequence[_Waiting]) -> None:
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
