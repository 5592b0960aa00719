"""Search and evaluation over nested dims."""

from collections.abc import Callable
from typing import Any

from benchmarks.side_by_side import ROOT, Benchmark


def _candidate(dims: int | None) -> Callable[[], Any]:
    """Evaluation of the trained model on the test split, encoding included, at its first `dims` dims, widest first (None: all)."""
    import torch

    import reelnest
    from reelnest.data.prepared import Prepared
    from reelnest.training.retrieval import evaluate_split

    if not (ROOT / "models" / "candidate").is_dir():
        raise SystemExit("there is no models/candidate here to evaluate: run `make demo` first")
    torch.set_num_threads(2)
    model, prepared = reelnest.load(ROOT / "models" / "candidate"), Prepared.open(ROOT / "prepared")
    chosen = model.dims[::-1][:dims]
    return lambda: evaluate_split(prepared, "test", model.encoder, model.batcher, chosen, batch_size=64, depth=1000)


def _vectors() -> tuple[Any, Any, tuple[int, ...]]:
    import torch

    torch.set_num_threads(2)
    numbers = torch.Generator().manual_seed(0)
    return torch.randn(1000, 3584, generator=numbers), torch.randn(200_000, 3584, generator=numbers), (256, 512, 1024, 2048, 3584)


def _prefix_topk() -> Callable[[], Any]:
    from reelnest.search.topk import prefix_topk

    queries, corpus, dims = _vectors()
    return lambda: prefix_topk(queries, corpus, dims, 100)


def _search_a_dim() -> Callable[[], Any]:
    import torch
    from torch.nn.functional import normalize

    queries, corpus, dims = _vectors()
    return lambda: [torch.topk(normalize(queries[:, :d], dim=1) @ normalize(corpus[:, :d], dim=1).T, 100) for d in dims]


BENCHMARKS = {
    "eval-dims": Benchmark(
        "evaluation of the candidate at all of its dims",
        "the same at the full width",
        1 / 1.15,
        lambda: _candidate(None),
        lambda: _candidate(1),
    ),
    "topk": Benchmark(
        "exact top-100 of 1,000 queries in 200,000 × 3,584, 5 dims, ties in a fixed order",
        "torch.topk of normalised vectors, one dim after the other",
        1.8,
        _prefix_topk,
        _search_a_dim,
        runs=3,
    ),
}
