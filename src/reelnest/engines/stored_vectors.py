"""The vectors of an existing index, read in blocks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from reelnest.engines.engine import Vector

BLOCK_VECTORS = 1000
"""Vectors that are read at once to be written again."""


class StoredVectors(Mapping[str, Vector]):
    """The vectors of an index by key. A new index looks them up in the order of the rows, so that a block serves the next ones too."""

    def __init__(self, keys: Iterable[str], read: Callable[[Sequence[str]], dict[str, Vector]]) -> None:
        self._keys, self._read = list(keys), read
        self._places = {key: place for place, key in enumerate(self._keys)}
        self._block: dict[str, Vector] = {}

    def __getitem__(self, key: str) -> Vector:
        if key not in self._block:
            place = self._places[key]
            self._block = self._read(self._keys[place : place + BLOCK_VECTORS])
        return self._block[key]

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
