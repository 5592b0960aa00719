"""Search and evaluation over nested dims.

Evaluations are of the clips that benchmarks/training.py trains on, preprocessed, by the tiny checkpoint that all sides begin with: how good
it is changes no time. `funnel` needs vectors whose results mean something: see nested_vectors.py.
"""

import atexit
import shutil
import time
from collections.abc import Callable
from typing import Any

from benchmarks import nested_vectors, training
from benchmarks.peers import evaluation as peers
from benchmarks.side_by_side import Benchmark, Figures

DIMS = peers.DIMS
FUNNEL, SHORTLIST, RESULTS = (256, nested_vectors.WIDTH), 200, 10
TOPK_DIMS = (256, 512, 1024, 2048, 3584)


def _evaluation(dims: tuple[int, ...]) -> Callable[[], Any]:
    """All that the stage computes for its figures: encoding, search at each of `dims`, metrics, intervals."""
    from reelnest.encoder.batches import Batcher
    from reelnest.encoder.encoder import load_encoder
    from reelnest.evaluation.split_evaluation import embed_split
    from reelnest.stages import preprocess
    from reelnest.store.prepared import Prepared

    workspace, params = training.workspace_of("full", 1, [])
    preprocess.run(workspace, params)
    prepared = Prepared.open(workspace.prepared)
    atexit.register(shutil.rmtree, workspace.root)
    encoder, tokenizer = load_encoder(params.model, params.model.name_or_path, training=False)
    batcher = Batcher(tokenizer, params.model, encoder.family)

    def run() -> Any:
        return embed_split(prepared, "test", encoder, batcher, peers.BATCH_SIZE).evaluate(dims, params.evaluate.depth, confidence=0.95)

    return run


def _evaluation_once() -> Callable[[], Figures]:
    run = _evaluation(DIMS)

    def counted() -> Figures:
        started = time.perf_counter()
        result = run()
        return {"seconds": time.perf_counter() - started, "recall@10": result.value("recall@10", "text_to_video")}

    return counted


def _vectors() -> tuple[Any, Any]:
    import torch

    torch.set_num_threads(2)
    numbers = torch.Generator().manual_seed(0)
    width = TOPK_DIMS[-1]
    return torch.randn(1000, width, generator=numbers), torch.randn(200_000, width, generator=numbers)


def _prefix_topk() -> Callable[[], Any]:
    from reelnest.search.topk import prefix_topk

    queries, corpus = _vectors()
    return lambda: prefix_topk(queries, corpus, TOPK_DIMS, 100)


def _search_a_dim() -> Callable[[], Any]:
    import torch
    from torch.nn.functional import normalize

    queries, corpus = _vectors()
    return lambda: [torch.topk(normalize(queries[:, :d], dim=1) @ normalize(corpus[:, :d], dim=1).T, 100) for d in TOPK_DIMS]


def _peak() -> Callable[[], Figures]:
    """measure_side adds the process's peak."""
    search = _prefix_topk()

    def run() -> Figures:
        search()
        return {}

    return run


def _size_of_the_vectors() -> Callable[[], Figures]:
    return lambda: {"kilobytes": 4 * 201_000 * TOPK_DIMS[-1] / 1024}


def _funnel() -> Callable[[], Any]:
    from reelnest.search.funnel import funnel_topk

    queries, corpus = nested_vectors.load()
    return lambda: funnel_topk(queries, corpus, FUNNEL, [SHORTLIST], RESULTS)


def _full_width() -> Callable[[], Any]:
    from reelnest.search.topk import prefix_topk

    queries, corpus = nested_vectors.load()
    return lambda: prefix_topk(queries, corpus, [FUNNEL[-1]], RESULTS)[FUNNEL[-1]]


def _share_found() -> Callable[[], Figures]:
    """Recall@10 as for approximate search: the share of the exact search's results that the funnel finds."""
    queries, corpus = nested_vectors.load()

    def run() -> Figures:
        from reelnest.search.funnel import funnel_topk
        from reelnest.search.topk import prefix_topk

        exact = prefix_topk(queries, corpus, [FUNNEL[-1]], RESULTS)[FUNNEL[-1]].indices
        approximate = funnel_topk(queries, corpus, FUNNEL, [SHORTLIST], RESULTS).indices
        return {"share": float((approximate[:, :, None] == exact[:, None, :]).any(dim=2).float().mean())}

    return run


def _all_found() -> Callable[[], Figures]:
    return lambda: {"share": 1.0}


BENCHMARKS = {
    "eval-dims": Benchmark(
        "evaluation at 5 dims: encoding, search, metrics, intervals, both directions",
        "the same at the full width alone",
        1 / 1.15,
        lambda: _evaluation(DIMS),
        lambda: _evaluation(DIMS[-1:]),
        setup=training.export_tiny,
    ),
    "eval-vs-st": Benchmark(
        "evaluation at 5 dims, both directions, from frames in the store",
        "sentence-transformers 6.2, InformationRetrievalEvaluator at 5 truncate_dims, from frames in memory",
        4,
        _evaluation_once,
        peers.prepare,
        runs=2,
        peers=True,
        counts=True,
        setup=training.export_tiny,
    ),
    "topk": Benchmark(
        "exact top-100 of 1,000 queries in 200,000 × 3,584, 5 dims, ties in a fixed order",
        "torch.topk of normalised vectors, one dim after the other",
        1.8,
        _prefix_topk,
        _search_a_dim,
        runs=3,
    ),
    "topk-memory": Benchmark(
        "peak memory of the whole process that does this, libraries included",
        "the size of the vectors",
        1 / 1.2,
        _peak,
        _size_of_the_vectors,
        runs=3,
        unit="kilobytes",
        counts=True,
    ),
    "funnel": Benchmark(
        f"top-10 of 1,000 queries in 200,000 × 3,584: a funnel 256→3584, shortlist of {SHORTLIST}",
        "the exact search at full width",
        5,
        _funnel,
        _full_width,
        runs=3,
        setup=nested_vectors.make,
    ),
    "funnel-recall": Benchmark(
        "Recall@10 of that funnel: the share of the exact search's results that it finds",
        "the exact search at full width",
        0.99,
        _share_found,
        _all_found,
        runs=1,
        unit="share",
        counts=True,
        setup=nested_vectors.make,
    ),
}
