"""Recall and speed of funnels over nested vectors, beside HNSW graphs of usearch and faiss over all their numbers.

Usage: `python -m benchmarks.funnel_curves [--vectors 1000000] [--width 256] [--prefix 64]` makes the vectors and graphs once (about twenty
minutes), then searches with one core and single queries, and writes results/funnel-1000000x256.svg and a table.

The vectors are clustered, and their numbers become smaller from the first to the last, as those of a model with the Matryoshka loss do.
Recall@10 is the share of the ten nearest by all numbers. An engine has a curve because each has a number that trades recall for speed: the
shortlist of a funnel, and how many candidates a graph keeps during a search.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.side_by_side import ROOT
from benchmarks.vector_search import write_folder

QUERIES, RESULTS = 500, 10
CLUSTERS, BLOCK = 5000, 50_000
LINKS, BUILD_CANDIDATES = 16, 128
"""Links of a node in a graph, and candidates while it is built: usearch's defaults, also for faiss."""
SHORTLISTS = (10, 20, 40, 80, 160, 320, 640)
CANDIDATES = (10, 20, 40, 80, 160, 320, 640)
MEASURED = "REELNEST_FUNNEL_CURVES"
"""Set in the process that measures."""

Search = Callable[[NDArray[np.float32]], Sequence[int]]
Point = tuple[float, float]
"""Recall@10 and queries a second."""


class Corpus(NamedTuple):
    """The size of a made-up corpus, and the numbers that the funnel's graph compares."""

    vectors: int
    width: int
    prefix: int

    @property
    def name(self) -> str:
        """Its size, for names of files."""
        return f"{self.vectors}x{self.width}"

    @property
    def folder(self) -> Path:
        """Of its vectors and graphs."""
        return ROOT / "work" / "benchmarks" / f"funnel-curves-{self.name}-{self.prefix}"

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """The corpus, a block at a time, and at last the queries: (rows, width) of unit length."""
        numbers = np.random.default_rng(0)
        importance = (1 + np.arange(self.width) / 16) ** -0.6
        centers = numbers.standard_normal((CLUSTERS, self.width), dtype=np.float32)
        for rows in [BLOCK] * (self.vectors // BLOCK) + [QUERIES]:
            noise = numbers.standard_normal((rows, self.width), dtype=np.float32)
            vectors = (centers[numbers.integers(CLUSTERS, size=rows)] + noise) * importance
            yield (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make(corpus: Corpus) -> None:
    """Writes the folder's index with its graph, the queries and what is nearest to them, and both other graphs."""
    import faiss
    import torch
    from usearch.index import Index

    from reelnest.search.topk import prefix_topk

    folder, width = corpus.folder, corpus.width
    starts = range(0, corpus.vectors, BLOCK)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "queries.npy").is_file():
        blocks = corpus.blocks()
        stored = np.lib.format.open_memmap(folder / "corpus.npy", "w+", np.float32, (corpus.vectors, width))
        for start in starts:
            stored[start : start + BLOCK] = next(blocks)
        queries = next(blocks)
        nearest = prefix_topk(torch.from_numpy(queries), torch.from_numpy(stored), [width], RESULTS)
        np.save(folder / "nearest.npy", nearest[width].indices.numpy())
        np.save(folder / "queries.npy", queries)
    vectors = np.load(folder / "corpus.npy", mmap_mode="r")
    if not (folder / "index").is_dir():
        write_folder(folder / "index", [vectors], corpus.vectors, [corpus.prefix, width], graph_dim=corpus.prefix)
    if not (folder / "graph.usearch").is_file():
        graph = Index(ndim=width, metric="cos", dtype="f16", connectivity=LINKS, expansion_add=BUILD_CANDIDATES)
        for start in starts:
            graph.add(np.arange(start, start + BLOCK), np.array(vectors[start : start + BLOCK]))
        graph.save(folder / "graph.usearch")
    if not (folder / "graph.faiss").is_file():
        flat = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
        flat.hnsw.efConstruction = BUILD_CANDIDATES
        for start in starts:
            flat.add(np.array(vectors[start : start + BLOCK]))
        faiss.write_index(flat, str(folder / "graph.faiss"))


def funnels(corpus: Corpus) -> Iterator[tuple[int, Search]]:
    """Ours, from the folder: the graph over the prefix gives a shortlist, which all numbers rerank."""
    from reelnest.engines.folder import FolderEngine

    engine = FolderEngine(str(corpus.folder / "index"))

    def search(query: NDArray[np.float32]) -> list[int]:
        return [int(id) for id in engine.search(query, RESULTS, dim=corpus.prefix, shortlist=shortlist).ids]

    for shortlist in SHORTLISTS:
        yield shortlist, search


def usearch_graphs(corpus: Corpus) -> Iterator[tuple[int, Search]]:
    """A graph of usearch over float16, in memory."""
    from usearch.index import Index

    graph = Index.restore(corpus.folder / "graph.usearch")
    if graph is None:
        sys.exit(f"{corpus.folder} has no graph of usearch. Remove the folder.")
    for candidates in CANDIDATES:
        graph.expansion_search = candidates
        yield candidates, lambda query: graph.search(query, RESULTS, threads=1).keys.tolist()


def faiss_graphs(corpus: Corpus) -> Iterator[tuple[int, Search]]:
    """A graph of faiss over float32, in memory."""
    import faiss

    faiss.omp_set_num_threads(1)
    graph = faiss.read_index(str(corpus.folder / "graph.faiss"))
    for candidates in CANDIDATES:
        graph.hnsw.efSearch = candidates
        yield candidates, lambda query: graph.search(query[None], RESULTS)[1][0].tolist()


def exact(corpus: Corpus) -> Iterator[tuple[int, Search]]:
    """The folder's exact search over all numbers."""
    from reelnest.engines.folder import FolderEngine

    engine = FolderEngine(str(corpus.folder / "index"))
    yield 0, lambda query: [int(id) for id in engine.search(query, RESULTS, dim=corpus.width).ids]


def point(search: Search, queries: NDArray[np.float32], nearest: NDArray[np.int64]) -> Point:
    """Measures twice and keeps the faster time: the first pass loads pages."""
    seconds = float("inf")
    for _ in range(2):
        started = time.perf_counter()
        results = [search(query) for query in queries]
        seconds = min(seconds, time.perf_counter() - started)
    shares = [len(set(found) & set(expected)) / RESULTS for found, expected in zip(results, nearest.tolist(), strict=True)]
    return float(np.mean(shares)), len(queries) / seconds


def draw(curves: dict[str, list[Point]], corpus: Corpus) -> None:
    """Draws recall against queries a second."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot([recall for recall, _ in points], [rate for _, rate in points], marker="o", label=name)
    axes.set(xlabel=f"Recall@{RESULTS} of the exact search", ylabel="queries a second, one core", yscale="log")
    axes.set_title(f"{corpus.vectors:,} vectors of {corpus.width:,} numbers")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(ROOT / "benchmarks" / "results" / f"funnel-{corpus.name}.svg", metadata={"Date": None})


def main() -> None:
    """Makes what is missing, measures in a process whose threads have one core each, prints a table and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000, help=f"a multiple of {BLOCK}")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--prefix", type=int, default=64, help="the numbers that the funnel's graph compares")
    corpus = Corpus(**vars(parser.parse_args()))
    if MEASURED not in os.environ:
        make(corpus)
        command = [sys.executable, "-m", "benchmarks.funnel_curves", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, MEASURED: "1", "OMP_NUM_THREADS": "1"})
    queries, nearest = np.load(corpus.folder / "queries.npy"), np.load(corpus.folder / "nearest.npy")
    sides: dict[str, Callable[[Corpus], Iterator[tuple[int, Search]]]] = {
        f"funnel {corpus.prefix} → {corpus.width}, folder on disk, float16": funnels,
        f"HNSW of usearch, {corpus.width}, float16": usearch_graphs,
        f"HNSW of faiss, {corpus.width}, float32": faiss_graphs,
        "exact, folder on disk, float16": exact,
    }
    curves: dict[str, list[Point]] = {}
    sys.stdout.write("| | shortlist or candidates | recall | queries a second |\n| --- | --- | --- | --- |\n")
    for name, side in sides.items():
        curves[name] = []
        for setting, search in side(corpus):
            recall, rate = point(search, queries[:20] if side is exact else queries, nearest[:20] if side is exact else nearest)
            curves[name].append((recall, rate))
            sys.stdout.write(f"| {name} | {setting or '–'} | {recall:.4f} | {rate:,.0f} |\n")
            sys.stdout.flush()
    draw(curves, corpus)


if __name__ == "__main__":
    main()
