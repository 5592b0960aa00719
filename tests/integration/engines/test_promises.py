"""What every engine promises about its results, with ties: exact or a recall, at every dim and storage type, behind every filter."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reelnest.engines.engine import Engine, Hits, Item, open_engine, write_version
from reelnest.engines.folder import FolderEngine
from reelnest.records.formats import Video
from reelnest.search.filters import parse_filter
from tests.integration.engines.test_versions import manifest

DIMS = (32, 64)
COUNTS = pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
SELECTED = {100.0: "part >= 0", 10.0: "part < 100", 1.0: "part < 10", 0.1: "part == 7"}
"""Filters by the percentage of rows that satisfy them."""
EVERY = [
    *((engine, storage) for engine in ("folder", "qdrant-edge") for storage in ("float32", "float16", "int8", "binary")),
    ("folder", "binary_int8"),
    ("postgresql", "float32"),
    ("postgresql", "float16"),
    ("qdrant", "float32"),
    ("milvus-lite", "float32"),
]
RECALL = {"float32": 1.0, "float16": 0.99, "int8": 0.9, "binary_int8": 0.8}
RERANKED = {"int8": 0.99, "binary": 0.9}
"""Of Qdrant, whose quantised results the floats rerank."""


def corpus(count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Clustered vectors, of which a hundredth are ties of others, and queries near them."""
    rng = np.random.default_rng(count)
    centers = rng.normal(size=(50, DIMS[-1]))
    vectors = (centers[rng.integers(0, len(centers), count)] + 0.7 * rng.normal(size=(count, DIMS[-1]))).astype(np.float32)
    vectors[-(count // 100) :] = vectors[: count // 100]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, (vectors[:: count // 25] + 0.05 * rng.normal(size=(25, DIMS[-1]))).astype(np.float32)


def write(engine: Engine, vectors: NDArray[np.float32], storage: str = "float32", graph_dim: int | None = None) -> None:
    about = manifest(videos=len(vectors), storage=storage, graph_dim=graph_dim, dims=DIMS, tags={"part": {}})
    number_type = storage if storage in ("float32", "float16") else "float32"
    items = (
        Item(Video(f"v{row:05}", f"{row}.mp4", (), {}, row + 1, {"part": str(row % 1000)}), str(row), vector.astype(number_type))
        for row, vector in enumerate(vectors)
    )
    write_version(engine, about, items)


def nearest(vectors: NDArray[np.float32], query: NDArray[np.float32], dim: int, rows: NDArray[np.int64], k: int = 10) -> list[str]:
    """The exact result among `rows`: ties in the order of the rows."""
    prefixes = vectors[rows, :dim].astype(np.float64)
    scores = (prefixes @ query[:dim] / np.linalg.norm(prefixes, axis=1) / np.linalg.norm(query[:dim])).round(7)
    return [f"v{row:05}" for row in rows[np.lexsort((rows, -scores))[:k]]]


def recall(engine: Engine, vectors: NDArray[np.float32], queries: NDArray[np.float32], dim: int, **options: object) -> float:
    every = np.arange(len(vectors))
    shares = [
        len(set(engine.search(query[: DIMS[-1]], 10, dim=dim, **options).ids) & set(nearest(vectors, query, dim, every))) / 10
        for query in queries
    ]
    return float(np.mean(shares))


@COUNTS
@pytest.mark.parametrize(("location", "storage"), EVERY, indirect=["location"])
def test_each_storage_type_finds_what_it_promises_at_each_dim(engine: Engine, location: str, storage: str, count: int) -> None:
    vectors, queries = corpus(count)
    write(engine, vectors, storage)
    shortlist = count // 10 if engine.manifest.has_signs else None  # 32 signs alone say little
    promised = {**RECALL, "binary": 0.3} if location.startswith("/") else {**RECALL, **RERANKED}
    for dim in DIMS:
        assert recall(engine, vectors, queries, dim, shortlist=shortlist) >= promised[storage], dim
    hits = engine.search(vectors[3], 2, dim=DIMS[-1], shortlist=shortlist)
    if storage != "binary":  # signs alone are those of other vectors, too
        assert list(hits.ids) == ["v00003", f"v{count - count // 100 + 3:05}"]


@COUNTS
def test_a_graph_and_a_shortlist_find_nearly_what_an_exact_search_finds(engine: Engine, count: int) -> None:
    vectors, queries = corpus(count)
    write(engine, vectors, graph_dim=DIMS[0])
    shares = [
        len(set(engine.search(query, 10, dim=DIMS[0], shortlist=200).ids) & set(engine.search(query, 10, dim=DIMS[-1]).ids)) / 10
        for query in queries
    ]
    assert np.mean(shares) >= 0.95


def test_searches_of_an_event_loop_find_the_same(tmp_path: Path) -> None:
    engine = FolderEngine(str(tmp_path / "index"))
    vectors, queries = corpus(2_000)
    write(engine, vectors, graph_dim=DIMS[0])
    part = parse_filter(SELECTED[10], ["part"])
    forms: list[dict[str, Any]] = [{"dim": DIMS[-1]}, {"dim": DIMS[0], "shortlist": 200}, {"dim": DIMS[-1], "condition": part}]
    searches = [(query, form) for query in queries[:30] for form in forms]

    async def run() -> list[Hits]:
        return await asyncio.gather(*(engine.search_async(query, 10, **form) for query, form in searches))

    for (query, form), hits in zip(searches, asyncio.run(run()), strict=True):
        alone = engine.search(query, 10, **form)
        assert (hits.ids, hits.dims) == (alone.ids, alone.dims)
        assert hits.scores == pytest.approx(alone.scores, abs=1e-6)


@COUNTS
def test_filters_that_select_many_few_or_hardly_any_rows_are_exact(engine: Engine, count: int) -> None:
    vectors, queries = corpus(count)
    write(engine, vectors, graph_dim=DIMS[0])
    rows = np.arange(count)
    for percent, text in SELECTED.items():
        satisfying = rows[rows % 1000 < 10 * percent] if percent >= 1 else rows[rows % 1000 == 7]
        condition = parse_filter(text, ["part"])
        for query in queries[::8]:
            hits = engine.search(query, 10, dim=DIMS[-1], condition=condition)
            assert list(hits.ids) == nearest(vectors, query, DIMS[-1], satisfying), text
            funnel = engine.search(query, 10, dim=DIMS[0], shortlist=count, condition=condition)
            assert list(funnel.ids) == nearest(vectors, query, DIMS[-1], satisfying), text


WRITER = """
import os, signal, sys
from reelnest.engines.engine import open_engine
from tests.integration.engines.test_promises import Item, Video, corpus, manifest, write
engine = open_engine(sys.argv[1])
vectors, _ = corpus(500)
write(engine, vectors)
engine.create("bb", manifest(videos=500, dims=(32, 64), tags={"part": {}}), [])
engine.upsert("bb", [Item(Video(f"v{row:05}", "a.mp4", (), {}, 1), str(row), vectors[row]) for row in range(100)])
print("acknowledged", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("location", ["folder", "postgresql", "qdrant-edge", "milvus-lite"], indirect=True)
def test_a_killed_writer_loses_nothing_of_the_active_version(location: str) -> None:
    killed = subprocess.run([sys.executable, "-c", WRITER, location], capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "acknowledged" in killed.stdout
    vectors, queries = corpus(500)
    engine = open_engine(location)
    assert engine.manifest.videos == 500
    for row in range(0, 500, 50):
        assert engine.search(vectors[row], 1, dim=64).ids == [f"v{row:05}"]
    assert len(engine.get([f"v{row:05}" for row in range(500)])) == 500
    write(engine, vectors[:100])  # and removes what is left of the unfinished one
    assert engine.manifest.videos == 100
    assert recall(engine, vectors[:100], queries, 64) == 1
    engine.close()


def by_client(location: str, queries: NDArray[np.float32]) -> list[list[str]]:
    """What the engine's own client finds in an index, without our code."""
    address, _, name = location.partition("#")
    if location.startswith("postgresql"):
        import psycopg

        statement = f"select video_id from {name} order by vector <=> %s limit 10"  # noqa: S608 (our own name)
        with psycopg.connect(address) as client:
            return [[row[0] for row in client.execute(statement, [str(query.tolist())])] for query in queries]
    if location.startswith("milvus-lite"):
        from pymilvus import MilvusClient

        lite = MilvusClient(address.partition("://")[2])
        lite.load_collection("reelnest")
        options = {"anns_field": "dim64", "limit": 10, "output_fields": ["video_id"]}
        results = [lite.search("reelnest", [query], **options)[0] for query in queries]
        lite.close()
        return [[hit["entity"]["video_id"] for hit in hits] for hits in results]
    if location.startswith("qdrant-edge"):
        import qdrant_edge

        (folder,) = (path for path in Path(address.partition("://")[2]).iterdir() if path.is_dir())
        shard = qdrant_edge.EdgeShard.load(str(folder / "shard"))
        requests = [
            qdrant_edge.QueryRequest(limit=10, query=qdrant_edge.Query.Nearest(query.tolist(), using="dim64"), with_payload=True)
            for query in queries
        ]
        return [[point.payload["video_id"] for point in shard.query(request)] for request in requests]
    from reelnest.engines import qdrant

    client = qdrant.connect(address)
    found = [client.query_points(name, query=query.tolist(), using="dim64", limit=10).points for query in queries]
    return [[point.payload["video_id"] for point in points] for points in found]


@pytest.mark.parametrize("location", ["postgresql", "qdrant", "qdrant-edge", "milvus-lite"], indirect=True)
def test_the_engines_own_client_finds_the_same_ten_videos_for_500_queries(engine: Engine, location: str) -> None:
    vectors, _ = corpus(1000)
    vectors = vectors[:900]  # without ties, whose order only we promise
    write(engine, vectors)
    queries = np.random.default_rng(5).normal(size=(500, 64)).astype(np.float32)
    ours = [set(engine.search(query, 10, dim=64).ids) for query in queries]
    assert [set(found) for found in by_client(location, queries)] == ours
