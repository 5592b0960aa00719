"""Recall and speed of funnels over a million nested vectors, beside HNSW graphs of usearch and faiss over all their numbers.

Usage: `python -m benchmarks.funnel_curves` makes the vectors and graphs once (about twenty minutes), then searches with one core and single
queries, and writes results/funnel.svg and a table.

The vectors are clustered, and their numbers become smaller from the first to the last, as those of a model with the Matryoshka loss do.
Recall@10 is the share of the ten nearest by all numbers. An engine has a curve because each has a number that trades recall for speed: the
shortlist of a funnel, and how many candidates a graph keeps during a search.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.side_by_side import ROOT
from benchmarks.vector_search import write_folder

VECTORS, WIDTH, PREFIX, QUERIES, RESULTS = 1_000_000, 1024, 256, 500, 10
CLUSTERS, BLOCK = 5000, 50_000
LINKS, BUILD_CANDIDATES = 16, 128
"""Links of a node in a graph, and candidates while it is built: usearch's defaults, also for faiss."""
FOLDER = ROOT / "work" / "benchmarks" / "funnel-curves"
SHORTLISTS = (10, 20, 40, 80, 160, 320, 640)
CANDIDATES = (10, 20, 40, 80, 160, 320, 640)

Search = Callable[[NDArray[np.float32]], Sequence[int]]
Point = tuple[float, float]
"""Recall@10 and queries a second."""


def blocks() -> Iterator[NDArray[np.float32]]:
    """The corpus, a block at a time, and at last the queries: (rows, WIDTH) of unit length."""
    numbers = np.random.default_rng(0)
    importance = (1 + np.arange(WIDTH) / 16) ** -0.6
    centers = numbers.standard_normal((CLUSTERS, WIDTH), dtype=np.float32)
    for rows in [BLOCK] * (VECTORS // BLOCK) + [QUERIES]:
        noise = numbers.standard_normal((rows, WIDTH), dtype=np.float32)
        vectors = (centers[numbers.integers(CLUSTERS, size=rows)] + noise) * importance
        yield (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make() -> None:
    """Writes the folder's index with its graph, the queries and what is nearest to them, and both other graphs."""
    import faiss
    import torch
    from usearch.index import Index

    from reelnest.search.topk import prefix_topk

    FOLDER.mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "queries.npy").is_file():
        corpus = np.lib.format.open_memmap(FOLDER / "corpus.npy", "w+", np.float32, (VECTORS, WIDTH))
        *starts, _ = range(0, VECTORS + BLOCK, BLOCK)
        parts = blocks()
        for start in starts:
            corpus[start : start + BLOCK] = next(parts)
        queries = next(parts)
        nearest = prefix_topk(torch.from_numpy(queries), torch.from_numpy(corpus), [WIDTH], RESULTS)
        np.save(FOLDER / "nearest.npy", nearest[WIDTH].indices.numpy())
        np.save(FOLDER / "queries.npy", queries)
    corpus = np.load(FOLDER / "corpus.npy", mmap_mode="r")
    if not (FOLDER / "index").is_dir():
        write_folder(FOLDER / "index", [corpus], VECTORS, [PREFIX, WIDTH], graph_dim=PREFIX)
    if not (FOLDER / "graph.usearch").is_file():
        graph = Index(ndim=WIDTH, metric="cos", dtype="f16", connectivity=LINKS, expansion_add=BUILD_CANDIDATES)
        for start in range(0, VECTORS, BLOCK):
            graph.add(np.arange(start, start + BLOCK), np.array(corpus[start : start + BLOCK]))
        graph.save(FOLDER / "graph.usearch")
    if not (FOLDER / "graph.faiss").is_file():
        flat = faiss.IndexHNSWFlat(WIDTH, LINKS, faiss.METRIC_INNER_PRODUCT)
        flat.hnsw.efConstruction = BUILD_CANDIDATES
        for start in range(0, VECTORS, BLOCK):
            flat.add(np.array(corpus[start : start + BLOCK]))
        faiss.write_index(flat, str(FOLDER / "graph.faiss"))


def funnels() -> Iterator[tuple[int, Search]]:
    """Ours, from the folder: the graph over the prefix gives a shortlist, which all numbers rerank."""
    from reelnest.engines.folder import FolderEngine

    engine = FolderEngine(str(FOLDER / "index"))

    def search(query: NDArray[np.float32]) -> list[int]:
        return [int(id) for id in engine.search(query, RESULTS, dim=PREFIX, shortlist=shortlist).ids]

    for shortlist in SHORTLISTS:
        yield shortlist, search


def usearch_graphs() -> Iterator[tuple[int, Search]]:
    """A graph of usearch over float16, in memory."""
    from usearch.index import Index

    graph = Index.restore(FOLDER / "graph.usearch")
    if graph is None:
        sys.exit(f"{FOLDER} has no graph of usearch. Remove the folder.")
    for candidates in CANDIDATES:
        graph.expansion_search = candidates
        yield candidates, lambda query: graph.search(query, RESULTS, threads=1).keys.tolist()


def faiss_graphs() -> Iterator[tuple[int, Search]]:
    """A graph of faiss over float32, in memory."""
    import faiss

    faiss.omp_set_num_threads(1)
    graph = faiss.read_index(str(FOLDER / "graph.faiss"))
    for candidates in CANDIDATES:
        graph.hnsw.efSearch = candidates
        yield candidates, lambda query: graph.search(query[None], RESULTS)[1][0].tolist()


def exact() -> Iterator[tuple[int, Search]]:
    """The folder's exact search over all numbers."""
    from reelnest.engines.folder import FolderEngine

    engine = FolderEngine(str(FOLDER / "index"))
    yield 0, lambda query: [int(id) for id in engine.search(query, RESULTS, dim=WIDTH).ids]


def point(search: Search, queries: NDArray[np.float32], nearest: NDArray[np.int64]) -> Point:
    """Measures twice and keeps the faster time: the first pass loads pages."""
    seconds = float("inf")
    for _ in range(2):
        started = time.perf_counter()
        results = [search(query) for query in queries]
        seconds = min(seconds, time.perf_counter() - started)
    shares = [len(set(found) & set(expected)) / RESULTS for found, expected in zip(results, nearest.tolist(), strict=True)]
    return float(np.mean(shares)), len(queries) / seconds


def draw(curves: dict[str, list[Point]], file: Path) -> None:
    """Draws recall against queries a second."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot([recall for recall, _ in points], [rate for _, rate in points], marker="o", label=name)
    axes.set(xlabel=f"Recall@{RESULTS} of the exact search", ylabel="queries a second, one core", yscale="log")
    axes.set_title(f"{VECTORS:,} vectors of {WIDTH} numbers")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Makes what is missing, measures in a process whose threads have one core each, prints a table and draws."""
    if sys.argv[1:] != ["measure"]:
        make()
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.funnel_curves", "measure"], {**os.environ, "OMP_NUM_THREADS": "1"})
    queries, nearest = np.load(FOLDER / "queries.npy"), np.load(FOLDER / "nearest.npy")
    sides: dict[str, Callable[[], Iterator[tuple[int, Search]]]] = {
        f"funnel {PREFIX} → {WIDTH}, folder on disk, float16": funnels,
        f"HNSW of usearch, {WIDTH}, float16": usearch_graphs,
        f"HNSW of faiss, {WIDTH}, float32": faiss_graphs,
        "exact, folder on disk, float16": exact,
    }
    curves: dict[str, list[Point]] = {}
    sys.stdout.write("| | shortlist or candidates | recall | queries a second |\n| --- | --- | --- | --- |\n")
    for name, side in sides.items():
        curves[name] = []
        for setting, search in side():
            recall, rate = point(search, queries[:20] if side is exact else queries, nearest[:20] if side is exact else nearest)
            curves[name].append((recall, rate))
            sys.stdout.write(f"| {name} | {setting or '–'} | {recall:.4f} | {rate:,.0f} |\n")
            sys.stdout.flush()
    draw(curves, ROOT / "benchmarks" / "results" / "funnel.svg")


if __name__ == "__main__":
    main()
