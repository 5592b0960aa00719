"""Exact search in an index's folder, from disk, beside a flat index of faiss in memory.

`setup` writes an index of 1,000,000 random vectors in float16 through the folder's engine. Each side searches it with the same queries, one
after the other, as a server does whose clients search one at a time. faiss holds the same vectors as float32, because its flat index of
inner products has no other form. The first results of both are compared with each other.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import ROOT, Benchmark, Figures

VECTORS, WIDTH, QUERIES, RESULTS = 1_000_000, 1024, 20, 10
BLOCK = 10_000
FOLDER = ROOT / "work" / "benchmarks" / "flat"
QUERIES_FILE, EXPECTED_FILE = FOLDER.with_name("flat-queries.npy"), FOLDER.with_name("flat-results.json")


def write_folder(folder: Path, blocks: Iterable[Any], videos: int, dims: Sequence[int], graph_dim: int | None = None) -> None:
    """Writes an index of made-up videos, in float16, whose ids are their rows. `blocks` are their vectors, (rows, dims[-1]) each."""
    from reelnest.engines.engine import Item, Manifest, write_version
    from reelnest.engines.folder import FolderEngine
    from reelnest.engines.stored import FORMAT_VERSION
    from reelnest.records.formats import Video

    manifest = Manifest(
        format_version=FORMAT_VERSION, model="random", model_hash="0", base="random", dims=tuple(dims), data=".", data_hash="0",
        storage="float16", graph_dim=graph_dim, videos=videos, skipped=0,
    )  # fmt: skip
    vectors = (vector for block in blocks for vector in block)
    items = (Item(Video(f"{row:07d}", "a.mp4", (), {}, 0), str(row), vector) for row, vector in enumerate(vectors))
    write_version(FolderEngine(str(folder)), manifest, items)


def _make() -> None:
    """Writes the index and the queries, once."""
    import numpy as np

    EXPECTED_FILE.unlink(missing_ok=True)
    if FOLDER.is_dir():
        return
    numbers = np.random.default_rng(0)

    def unit(rows: int) -> Any:
        vectors = numbers.standard_normal((rows, WIDTH), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    np.save(QUERIES_FILE, unit(QUERIES))
    write_folder(FOLDER, (unit(BLOCK) for _ in range(VECTORS // BLOCK)), VECTORS, [WIDTH])


def _folder() -> Callable[[Any], list[str]]:
    import torch

    from reelnest.engines.folder import FolderEngine

    torch.set_num_threads(2)
    engine = FolderEngine(str(FOLDER))
    return lambda query: list(engine.search(query, RESULTS, dim=WIDTH).ids)


def _faiss() -> Callable[[Any], list[str]]:
    import faiss
    import numpy as np

    faiss.omp_set_num_threads(2)
    stored = np.load(FOLDER / "vectors.npy", mmap_mode="r")
    index = faiss.IndexFlatIP(WIDTH)
    for start in range(0, VECTORS, BLOCK):
        index.add(stored[start : start + BLOCK].astype(np.float32))
    return lambda query: [f"{row:07d}" for row in index.search(query[None], RESULTS)[1][0]]


def _searched(side: Callable[[], Callable[[Any], list[str]]]) -> Callable[[], Callable[[], Figures]]:
    """The side's figures: the seconds of all queries, and the memory that the system cannot take back."""

    def prepare() -> Callable[[], Figures]:
        import numpy as np

        search, queries = side(), np.load(QUERIES_FILE)
        search(queries[0])

        def run() -> Figures:
            started = time.perf_counter()
            results = [search(query) for query in queries]
            seconds = time.perf_counter() - started
            _compare(results)
            return {"seconds": seconds, "kilobytes": _anonymous_kilobytes()}

        return run

    return prepare


def _compare(results: list[list[str]]) -> None:
    """Ends with an error if the other side had other results. float16 is read exactly by both, so there is no tolerance."""
    if not EXPECTED_FILE.is_file():
        EXPECTED_FILE.write_text(json.dumps(results))
    elif json.loads(EXPECTED_FILE.read_text()) != results:
        sys.exit("The two sides have different results.")


def _anonymous_kilobytes() -> float:
    """Memory of this process without the pages of mapped files, which the system drops when it needs memory."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in status if line.startswith("RssAnon"))


WHAT = f"exact top-{RESULTS} of {QUERIES} single queries in an index folder of 1,000,000 × {WIDTH} float16 on disk"
AGAINST = "faiss 1.15 IndexFlatIP, the same vectors as float32 in memory"
BENCHMARKS = {
    "flat": Benchmark(WHAT, AGAINST, 1.0, _searched(_folder), _searched(_faiss), runs=3, peers=True, counts=True, setup=_make),
    "flat-memory": Benchmark(
        f"memory that the system cannot take back: {WHAT}",
        AGAINST,
        10,
        _searched(_folder),
        _searched(_faiss),
        runs=1,
        unit="kilobytes",
        peers=True,
        counts=True,
        setup=_make,
    ),
}
