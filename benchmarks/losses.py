"""The nested loss by itself, forward and backward, on vectors as wide as Qwen2.5-VL-7B's."""

import resource
from collections.abc import Callable
from typing import Any

from benchmarks.side_by_side import Benchmark

DIMS = (256, 512, 1024, 2048, 3584)
TEMPERATURE = 0.05


def _vectors(pairs: int, device: str = "cpu") -> tuple[Any, Any]:
    import torch

    torch.set_num_threads(2)
    numbers = torch.Generator(device).manual_seed(0) if device == "cpu" else None
    made = [torch.randn(pairs, DIMS[-1], generator=numbers, device=device) for _ in range(2)]
    return made[0].requires_grad_(), made[1].requires_grad_()


def _nested(pairs: int) -> Callable[[], Any]:
    import torch

    from reelnest.settings import NestedInfoNceSettings
    from reelnest.training.losses.gather import GatheredBatch
    from reelnest.training.losses.nested_infonce import nested_losses

    queries, targets = _vectors(pairs)

    def step() -> None:
        queries.grad = targets.grad = None
        batch = GatheredBatch(queries, targets, slice(0, pairs))
        nested_losses(batch, DIMS, torch.tensor([TEMPERATURE]), NestedInfoNceSettings()).sum().backward()

    return step


def _sentence_transformers(pairs: int) -> Callable[[], Any]:
    """Its cached loss in both directions, as ours. In mini-batches of 256: with the 32 that it takes unless told, it is slower."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss, MatryoshkaLoss

    from benchmarks.peers.losses import Given

    queries, targets = _vectors(pairs)
    model = Given(DIMS[-1])
    both: Any = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction", "scale": 1 / TEMPERATURE}
    loss = MatryoshkaLoss(model, CachedMultipleNegativesRankingLoss(model, mini_batch_size=256, **both), DIMS)

    def step() -> None:
        parts = [[part.detach().requires_grad_() for part in vectors.split(256)] for vectors in (queries, targets)]
        loss.loss.calculate_loss(parts, None, with_backward=True)

    return step


def _nested_memory(pairs: int) -> Callable[[], Any]:
    step = _nested(pairs)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def measure() -> dict[str, float]:
        step()
        return {"kilobytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)}

    return measure


def _plain_memory(pairs: int) -> Callable[[], Any]:
    """What the plain loop over dims keeps for its backward pass, and the vectors' gradients: no machine of ours has room to run it."""
    import torch
    from torch.nn import functional as F

    queries, targets = _vectors(pairs, "meta")
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def measure() -> dict[str, float]:
        own = torch.arange(pairs, device="meta")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            for dim in DIMS:
                logits = F.normalize(queries[:, :dim], dim=-1) @ F.normalize(targets[:, :dim], dim=-1).T / TEMPERATURE
                F.cross_entropy(logits, own)
                F.cross_entropy(logits.T, own)
        storages = {kept[key].untyped_storage()._cdata: kept[key].untyped_storage().nbytes() for key in kept}
        inputs = {vectors.untyped_storage()._cdata for vectors in (queries, targets)}
        bytes_kept = sum(size for key, size in storages.items() if key not in inputs)
        return {"kilobytes": (bytes_kept + queries.nbytes + targets.nbytes) / 1024}

    return measure


BENCHMARKS = {
    "loss-time": Benchmark(
        "nested loss, forward and backward, 2,048 × 2,048, dims 256…3584, both directions",
        "sentence-transformers' Matryoshka over its cached loss, both directions, mini-batches of 256",
        2.0,
        lambda: _nested(2048),
        lambda: _sentence_transformers(2048),
        peers=True,
    ),
    "loss-memory": Benchmark(
        "peak growth of memory by the nested loss, 16,384 × 16,384, dims 256…3584",
        "what autograd keeps for the plain loop, counted without running it, and the gradients",
        10.0,
        lambda: _nested_memory(16_384),
        lambda: _plain_memory(16_384),
        runs=1,
        unit="kilobytes",
        counts=True,
    ),
}
