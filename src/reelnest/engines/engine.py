"""The interface of an engine. It stores the versions of one index, searches the active one, and replaces it in one step."""

import importlib
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from reelnest.addresses import without_credentials
from reelnest.errors import ConfigError, ModelError, NoIndex, QueryError
from reelnest.implementations import Implementations
from reelnest.records.formats import BadRecord, Video
from reelnest.search.filters import Filter
from reelnest.search.storage_types import STORAGE_TYPES
from reelnest.settings import Precision, Section, Storage

Vector = NDArray[np.floating]
BLOCK_BYTES = 512
"""What POSIX counts the blocks of a file in."""


class Manifest(Section):
    """The model, the data and the settings that an index was built from."""

    format_version: int
    model: str
    """The model's location: a folder relative to the index's, or `models:/name/version`."""
    model_hash: str
    """Hash of the model's files. Vectors of different models cannot be compared."""
    base: str
    """The base model, for display."""
    dims: tuple[int, ...]
    """The prefixes that the model was trained for, up to the stored width, which is the last."""
    data: str
    """The corpus's folder, relative to the index's."""
    data_hash: str
    """Hash of the ids, bytes and texts of all videos in the index."""
    precision: Precision = "no"
    """Precision of the matrix products that made the vectors."""
    storage: Storage
    graph_dim: int | None
    """The prefix whose approximate index gives the shortlists; None without an approximate index."""
    tags: Mapping[str, Mapping[str, int]] = {}
    """The tags of the videos that filters can use, with the number of videos of each tag's most frequent values."""
    videos: int
    """Number of vectors: videos, and windows of long ones."""
    windows: int = 0
    """How many of them are windows."""
    skipped: int

    @property
    def width(self) -> int:
        """Numbers per vector."""
        return self.dims[-1]

    @property
    def has_signs(self) -> bool:
        """Whether vectors are compared by their signs first, so that every search has a shortlist."""
        return STORAGE_TYPES[self.storage].store is None

    def check_dim(self, dim: int | None) -> int:
        """Returns `dim`, or the full width for None. Raises QueryError if it is not between 1 and the width."""
        dim = self.width if dim is None else dim
        if not 1 <= dim <= self.width:
            trained = ", ".join(map(str, self.dims))
            raise QueryError(
                f"dim {dim}: this index has dims 1 to {self.width}. The model was trained for {trained}; other dims have lower quality."
            )
        return dim

    def check_model(self, model_hash: str, place: str) -> None:
        """Raises ModelError if a model with another hash made the index in `place`, a location without passwords."""
        if model_hash != self.model_hash:
            raise ModelError(
                f"{place}: this index was built with model {self.model_hash[:12]} ({self.model}), not with {model_hash[:12]}. Vectors of"
                f" two models cannot be compared. Run `reelnest index --to {place}` again, or search with that model."
            )


@dataclass(frozen=True, eq=False)
class Item:
    """A video with its vector, as it enters an index."""

    video: Video
    key: str
    """Hash of the video's bytes, the sampling settings and the encoded text. Equal keys have equal vectors."""
    vector: Vector
    """(width,), finite: the first numbers of a vector of unit length."""


@dataclass(frozen=True, eq=False)
class Hits:
    """The results of a search, best first."""

    ids: Sequence[str]
    scores: Sequence[float]
    """Cosines."""
    dims: tuple[int, ...]
    """The dim of an exact search, or the dims of the shortlist and of the reranking. The scores are of the last one."""


class Engine(Protocol):
    """One index in one place: a folder, or a table or collection of a server.

    A new version is created beside the active one, filled, built and activated. A search sees either the complete old version or the
    complete new one. Only one process at a time writes (the caller holds a lock of this machine; a server's engine locks out other
    machines). Any number of processes and threads may search.

    Scores are cosines, larger is better. An engine converts the measure of its server: pgvector's `<#>` is the negative inner product and
    `<=>` a distance; Qdrant and Milvus return similarities. Ties are ordered as the videos were inserted. An engine may shortlist and
    rerank in one request (one statement of pgvector, `prefetch` of Qdrant) or in two (Milvus).
    """

    @property
    def storages(self) -> Collection[str]:
        """The storage types of vectors that it can hold."""

    def create(self, version: str, manifest: Manifest, skipped: Collection[BadRecord]) -> None:
        """Begins a version and removes unfinished versions of killed runs.

        Args:
            version: A unique name of lowercase hexadecimal digits.
            manifest: The manifest of the version. `manifest.videos` items will follow.
            skipped: The videos that are left out of the index, for display.

        Raises:
            DataError: if the location cannot be written.
        """

    def upsert(self, version: str, items: Sequence[Item]) -> None:
        """Adds items to an unfinished version. They are sorted by id across all calls."""

    def build(self, version: str) -> None:
        """Finishes a version: builds the approximate index over `manifest.graph_dim` and makes all data durable."""

    def activate(self, version: str) -> None:
        """Makes a built version the active one, in one step, and removes the previous one."""

    def drop(self, version: str) -> None:
        """Removes a version that is not active. Does nothing if it does not exist."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of the active version. Raises DataError if there is none or if it is damaged."""

    def search(
        self, query: NDArray[np.float32], k: int, *, dim: int, shortlist: int | None = None, condition: Filter | None = None
    ) -> Hits:
        """Returns the best `k` videos of the active version for one query.

        Args:
            query: (width,), of any norm.
            k: The maximum number of results.
            dim: The number of dimensions to compare, 1 to the width. Prefixes are normalised.
            shortlist: None for an exact search, whose scores are of `dim`. Otherwise the number of videos (at least `k`) that a search at
                `dim` selects and the full width reranks. That search uses the approximate index if there is one for `dim`. Signs
                (`Manifest.has_signs`) are compared at `dim` alone: their Hamming distance makes the shortlist, and all their numbers
                rerank it.
            condition: Only the videos that satisfy it are searched, as if there were no others.

        Raises:
            ModelError: if a score is NaN.
            DataError: if there is no active version.
        """

    def get(self, ids: Sequence[str]) -> list[Video]:
        """Returns videos of the active version, in the order of `ids`. Raises QueryError for an unknown id."""

    def vectors(self, keys: Collection[str]) -> Mapping[str, Vector]:
        """Returns the stored vectors of the active version for those of `keys` that it has. They need not be encoded again."""

    def disk_bytes(self) -> int | None:
        """Returns bytes of the active version on the disk, with its tables and graphs; None if the server does not say."""

    def close(self) -> None:
        """Closes connections and files."""


@runtime_checkable
class SearchesAsync(Protocol):
    """An engine that searches in a thread of its own, and whose `get` waits for no server, so that no thread has to wait for it."""

    async def search_async(
        self, query: NDArray[np.float32], k: int, *, dim: int, shortlist: int | None = None, condition: Filter | None = None
    ) -> Hits:
        """Searches like `Engine.search`, in an event loop."""


ENGINES: Implementations[Callable[[str], Engine]] = Implementations("search engine", "reelnest.engines")
"""The engine classes by name. Each takes a location: a folder's path, or a server's address with the name of the index.

The constructor must not connect, because the index may not exist yet. Register a class with `@ENGINES.register("name")`.
"""


LOCAL_ENGINES = ("qdrant-edge://", "milvus-lite://")
"""Addresses of engines in this process, which store an index in a folder or a file."""


def is_address(location: str) -> bool:
    """Returns whether a location is that of another engine, such as `postgresql://…`, and not a folder."""
    return "://" in location


def is_server(location: str) -> bool:
    """Returns whether a location is that of a server, which can be unreachable."""
    return is_address(location) and not location.startswith(LOCAL_ENGINES)


def shown(location: str) -> str:
    """Returns a location without credentials, for messages. Options go too: one of them can be a password."""
    if not is_server(location):
        return location
    return urlsplit(without_credentials(location))._replace(query="").geturl()


def name_of(location: str) -> str:
    """Returns the name of an index, for display: its folder's, or the one after `#` in an address."""
    if not is_address(location):
        return base_folder(location).name
    address, _, name = location.partition("#")
    return name or (Path(address.partition("://")[2]).stem if address.startswith(LOCAL_ENGINES) else "reelnest")


def base_folder(location: str) -> Path:
    """Returns the folder to which the paths in a manifest are relative: the index's own, or the root for the index of a server."""
    return Path("/") if is_address(location) else Path(location).resolve()


def bytes_below(path: Path) -> int:
    """Returns bytes that the files below a folder take on the disk. Engines write files with holes."""
    return sum(BLOCK_BYTES * file.stat().st_blocks for file in path.rglob("*") if file.is_file())


def write_version(
    engine: Engine, manifest: Manifest, items: Iterable[Item], skipped: Collection[BadRecord] = (), batch_size: int = 1000
) -> None:
    """Writes a version of an index and makes it the active one. Removes it if that fails.

    Args:
        engine: The index.
        manifest: The version's. `manifest.videos` items follow.
        items: The rows, sorted by id. `batch_size` of them are in memory at once.
        skipped: The videos that are left out, for display.

    Raises ModelError for vectors that cannot be ranked, DataError if the index cannot be written.
    """
    version, rows = secrets.token_hex(8), iter(items)
    try:
        engine.create(version, manifest, skipped)
        while batch := list(islice(rows, batch_size)):
            check_vectors(batch, manifest.width)
            engine.upsert(version, batch)
        engine.build(version)
        engine.activate(version)
    finally:
        engine.drop(version)  # does nothing if the version is active


def check_stored_dim(trained: Sequence[int], dim: int | None) -> None:
    """Raises ConfigError for a dim of an index that is not one of the model's."""
    if dim is not None and dim not in trained:
        raise ConfigError(f"dim {dim}: the model was trained for {', '.join(map(str, trained))}. Store one of these.")


def check_vectors(items: Sequence[Item], width: int) -> None:
    """Raises ModelError for vectors that cannot be ranked. Engines accept some of them in silence."""
    for item in items:
        norm = float(np.linalg.norm(item.vector.astype(np.float32))) if item.vector.shape == (width,) else 0.0
        if not (np.isfinite(norm) and norm > 0):
            raise ModelError(
                f"the vector of video {item.video.video_id} has the shape {item.vector.shape} and the norm {norm:g}; expected ({width},)"
                " and a finite norm above 0. Training has diverged or the weights are damaged. Check the loss in reports/training.csv."
            )


def open_engine(location: str) -> Engine:
    """Opens the engine of a location: an address by its scheme, such as `postgresql://` or `qdrant+http://`, anything else as a folder.

    Raises ConfigError for an unknown scheme.
    """
    return ENGINES[location.partition("://")[0] if is_address(location) else "folder"](location)


def check_engine(location: str) -> None:
    """Connects to a server, which need not have the index yet; other engines are only opened.

    Raises ConfigError for an unknown engine or one whose package is not installed, DataError for a server that cannot be used.
    """
    engine = open_engine(location)
    try:
        if is_server(location):
            _ = engine.manifest
    except NoIndex:
        pass
    finally:
        engine.close()


def optional_module(name: str, extra: str, place: str) -> Any:
    """Returns a module of a package that only one engine requires. Raises ConfigError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise ConfigError(f"{place}: the package {package} is not installed. Run `pip install 'reelnest[{extra}]'`.") from None
