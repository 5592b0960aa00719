"""The recommended configuration in search engines: what each finds of an exact search, how fast, and how large it is.

In: the vectors of a corpus and its queries. Each engine gets an index of its own, as `reelnest index` would write it, and is searched by
one client and by several at once, without a filter and with filters that select few rows. Our folder is measured beside the others.
"""

import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import psutil
import torch
from torch import Tensor

from reelnest.engines.engine import Engine, Item, Manifest, is_address, is_server, open_engine, shown, write_version
from reelnest.engines.folder_vectors import FLOATS
from reelnest.engines.stored import FORMAT_VERSION
from reelnest.records.formats import Video
from reelnest.search.filters import Filter, parse_filter
from reelnest.search.storage import unit
from reelnest.search.topk import prefix_topk

FOLDER = "folder"
K = 10
SELECTIVITIES = (1.0, 0.1, 0.01, 0.001)
CLIENTS = (1, 8, 32)
SECONDS = 1.0
"""How long each number of clients searches."""
COMPARED_QUERIES = 200
INDEX_NAME = "reelnest_measured"
BATCH = 500


Score: TypeAlias = Callable[[Callable[[int], Tensor]], float]
"""Returns a metric of the results of all queries, (queries, k) rows of the corpus, which a function returns for a k."""


@dataclass(frozen=True)
class IndexForm:
    """The recommended configuration."""

    dims: tuple[int, ...]
    """The dims of a funnel; one for a single search."""
    storage: str
    shortlist: int | None
    """Results of the first dim that the last one reranks, or for signs the results that are reranked."""


@dataclass(frozen=True)
class Load:
    """Searches by several clients at once."""

    clients: int
    queries_per_second: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class FilteredSearch:
    """Searches among a share of the rows."""

    share: float
    rows: int
    recall: float
    """The mean share of the ten best by exact cosines that are among the results."""
    label_recall: float | None
    """Recall@10 on the labels; None behind a filter."""
    loads: tuple[Load, ...]


@dataclass(frozen=True)
class MeasuredEngine:
    """An engine and its measurements."""

    engine: str
    storage: str
    """The recommended type, or float32 in an engine without it."""
    disk_bytes: int | None
    """None if the engine does not say."""
    memory_bytes: int | None
    """What this process grew by; None for a server."""
    searches: tuple[FilteredSearch, ...] = field(default=())


def measure_engines(
    names: Sequence[str], queries: Tensor, corpus: Tensor, form: IndexForm, work: Path, score: Score | None = None
) -> Iterator[MeasuredEngine]:
    """Measures our folder and each engine, one after the other.

    Args:
        names: `folder`, `qdrant-edge`, `milvus-lite`, or the address of a server, in which the index `reelnest_measured` is overwritten.
        queries: (queries, width).
        corpus: (vectors, width).
        form: What the index has.
        work: A folder for the indexes of embedded engines, which are removed afterwards.
        score: Returns Recall@10 on the labels, given a function that searches with all queries.

    Raises ConfigError for an unknown engine, DataError for one that cannot be used.
    """
    queries, corpus = unit(queries), unit(corpus)
    for name in dict.fromkeys((FOLDER, *names)):
        yield _measure(name, queries, corpus, form, work, score)


def _measure(name: str, queries: Tensor, corpus: Tensor, form: IndexForm, work: Path, score: Score | None) -> MeasuredEngine:
    with _index_location(name, work) as location:
        engine = open_engine(location)
        storage = form.storage if form.storage in engine.storages else "float32"
        try:
            _write(engine, corpus, form, storage)
            engine.close()
            before = psutil.Process().memory_info().rss
            engine = open_engine(location)
            searches = tuple(_searches(engine, queries, corpus, form, score))
            memory = None if is_server(location) else psutil.Process().memory_info().rss - before
            return MeasuredEngine(shown(name), storage, engine.disk_bytes(), memory, searches)
        finally:
            engine.close()


@contextmanager
def _index_location(name: str, work: Path) -> Iterator[str]:
    place = work / f"measured-{secrets.token_hex(4)}"
    place.mkdir(parents=True)
    try:
        yield engine_location(name, place.resolve())
    finally:
        shutil.rmtree(place, ignore_errors=True)


def engine_location(name: str, place: Path) -> str:
    """Returns the location of the measured index in an engine, below `place` if the engine is embedded."""
    if is_address(name):
        return f"{name.partition('#')[0]}#{INDEX_NAME}"
    return str(place / "index") if name == FOLDER else f"{name}://{place / 'index.db'}"


def _write(engine: Engine, corpus: Tensor, form: IndexForm, storage: str) -> None:
    width, number_type = form.dims[-1], storage if storage in FLOATS else "float32"
    manifest = Manifest(
        format_version=FORMAT_VERSION, model="measured", model_hash="measured", base="measured", dims=form.dims, data=".",
        data_hash="measured", storage=storage, graph_dim=None, tags={"draw": {}}, videos=len(corpus), skipped=0,
    )  # fmt: skip
    draws = _draws(len(corpus))
    items = (
        Item(Video(f"{row:09}", "measured", (), {}, row + 1, {"draw": str(draws[row])}), str(row), vector.astype(number_type))
        for row, vector in enumerate(corpus[:, :width].numpy())
    )
    write_version(engine, manifest, items, batch_size=BATCH)


def _draws(count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Returns a number for each row, by which filters select rows that no cluster decides."""
    return np.random.default_rng(0).permutation(count)


def _searches(engine: Engine, queries: Tensor, corpus: Tensor, form: IndexForm, score: Score | None) -> Iterator[FilteredSearch]:
    draws = torch.from_numpy(_draws(len(corpus)))
    for share in SELECTIVITIES:
        rows = int(share * len(corpus))
        if not rows:
            continue
        condition = None if share == 1 else parse_filter(f"draw < {rows}", ["draw"])
        labels = None if score is None or condition is not None else score(partial(_results, engine, queries, form))
        recall = _recall(engine, queries[:COMPARED_QUERIES], corpus, torch.nonzero(draws < rows)[:, 0], form, condition)
        loads = tuple(_load(engine, queries, form, condition, clients) for clients in CLIENTS)
        yield FilteredSearch(share, rows, recall, labels, loads)


def _search(engine: Engine, query: Tensor, form: IndexForm, condition: Filter | None, k: int = K) -> list[int]:
    vector = query[: form.dims[-1]].numpy()
    shortlist = form.shortlist if len(form.dims) > 1 or engine.manifest.has_signs else None
    hits = engine.search(vector, k, dim=form.dims[0], shortlist=shortlist, condition=condition)
    return [int(video_id) for video_id in hits.ids]


def _recall(engine: Engine, queries: Tensor, corpus: Tensor, rows: Tensor, form: IndexForm, condition: Filter | None) -> float:
    width, k = form.dims[-1], min(K, len(rows))
    exact = rows[prefix_topk(queries[:, :width], corpus[rows][:, :width], [width], k)[width].indices].tolist()
    shares = [len(set(_search(engine, query, form, condition)) & set(best)) / k for query, best in zip(queries, exact, strict=True)]
    return float(np.mean(shares))


def _results(engine: Engine, queries: Tensor, form: IndexForm, k: int) -> Tensor:
    return torch.tensor([_search(engine, query, form, None, k) for query in queries])


def _load(engine: Engine, queries: Tensor, form: IndexForm, condition: Filter | None, clients: int) -> Load:
    """Runs clients that each send a query when they have the result of the one before."""
    started = time.perf_counter()

    def client(number: int) -> list[float]:
        times: list[float] = []
        while not times or time.perf_counter() - started < SECONDS:
            query = queries[(number + clients * len(times)) % len(queries)]
            sent = time.perf_counter()
            _search(engine, query, form, condition)
            times.append(time.perf_counter() - sent)
        return times

    with ThreadPoolExecutor(clients) as pool:
        times = np.array([each for of_client in pool.map(client, range(clients)) for each in of_client])
    elapsed = time.perf_counter() - started
    p50, p99 = (1000 * np.percentile(times, (50, 99))).tolist()
    return Load(clients, len(times) / elapsed, p50, p99)
