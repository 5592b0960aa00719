"""A cache for the vectors of an index under construction. It is written batch by batch, so that the run after a killed one resumes."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reelnest.atomic_files import atomic_write

Vectors = NDArray[np.floating]


class CachedVectors:
    """A folder of whole files, a batch of vectors each. One process at a time may use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, tuple[Path, int]] = {}
        self._last: tuple[Path, Vectors] | None = None
        for file in sorted(folder.glob("*.npz")):
            try:
                with np.load(file, allow_pickle=False) as stored:
                    self._note(file, stored["keys"].tolist())
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                file.unlink()  # damaged on disk; its videos are encoded again

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Vectors:
        """Returns the vector of a key, (width,). Raises KeyError."""
        file, row = self._places[key]
        if self._last is None or self._last[0] != file:  # vectors are read nearly in the order of the files
            with np.load(file, allow_pickle=False) as stored:
                self._last = file, stored["vectors"]
        vector: Vectors = self._last[1][row]
        return vector

    def add(self, keys: Sequence[str], vectors: Vectors) -> None:
        """Writes a batch of vectors, (keys, width)."""
        file = self._folder / f"{keys[0]}.npz"
        with atomic_write(file) as out:
            np.savez(out, keys=np.array(keys), vectors=vectors)
        self._note(file, keys)

    def _note(self, file: Path, keys: Sequence[str]) -> None:
        self._places.update({key: (file, row) for row, key in enumerate(keys)})
