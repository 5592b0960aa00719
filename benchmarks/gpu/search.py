"""The nested loss and the exact search at the sizes of a large batch and a large corpus."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.reporting import Run
from reelnest.search.topk import prefix_topk
from reelnest.settings import NestedInfoNceSettings
from reelnest.training.losses.gather import GatheredBatch
from reelnest.training.losses.nested_infonce import nested_losses

TEMPERATURE = 0.05
LOSS_TOLERANCE = {"float32": 1e-4, "tf32": 5e-3}
LEAST_OVERLAP = 0.999


def nested_loss(run: Run) -> None:
    """Forward and backward, in float32 and with TF32, and the plain loop."""
    pairs, dims = (64, (16, 32, 64)) if run.tiny else (16_384, (256, 512, 1024, 2048, 3584))
    generator = torch.Generator(run.device).manual_seed(0)
    queries, targets = (torch.randn(pairs, dims[-1], device=run.device, generator=generator) for _ in range(2))
    targets += queries
    queries.requires_grad_()
    targets.requires_grad_()
    temperature = torch.tensor([TEMPERATURE], device=run.device)
    results: dict[str, Tensor] = {}

    def ours() -> None:
        queries.grad = targets.grad = None
        losses = nested_losses(GatheredBatch(queries, targets, slice(0, pairs)), dims, temperature, NestedInfoNceSettings())
        losses.sum().backward()
        results["losses"] = losses.detach()

    def plain() -> None:
        queries.grad = targets.grad = None
        own, losses = torch.arange(pairs, device=run.device), []
        for dim in dims:
            logits = F.normalize(queries[:, :dim], dim=1) @ F.normalize(targets[:, :dim], dim=1).T / TEMPERATURE
            losses.append((F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2)
        torch.stack(losses).sum().backward()
        results["losses"] = torch.stack(losses).detach()

    measured: dict[str, tuple[Tensor, Tensor]] = {}
    for name, call, tf32 in (("float32", ours, False), ("tf32", ours, True), ("plain_float32", plain, False), ("plain_tf32", plain, True)):
        with run.part(name):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            run.free()
            run.begin_peak()
            seconds = run.seconds(call, repeats=1 if run.tiny else 3)
            run.figures(**{name: {"seconds": seconds, "peak_mib": run.peak_mib, "losses": results["losses"].tolist()}})
            assert queries.grad is not None  # noqa: S101 (for the type checker)
            measured[name] = results["losses"], queries.grad.clone()
    for name, tolerance in LOSS_TOLERANCE.items():
        if name in measured and "plain_float32" in measured:
            losses, gradient = (_relative(a, b) for a, b in zip(measured[name], measured["plain_float32"], strict=True))
            run.figures(**{f"{name}_differs": {"losses": losses, "gradient": gradient}})
            differs = f"{name}: losses differ by {losses:.2g}, gradients by {gradient:.2g}"
            run.require(losses <= tolerance and gradient <= 10 * tolerance, differs)


def top_k(run: Run) -> None:
    """All dims in one pass, and plain torch, dim by dim."""
    corpus_size, queries_size, k, dims = (2000, 20, 10, (16, 32, 64)) if run.tiny else (1_000_000, 1000, 100, (128, 256, 512, 1024, 2048))
    generator = torch.Generator(run.device).manual_seed(0)
    corpus = torch.randn(corpus_size, dims[-1], device=run.device, generator=generator)
    queries = torch.randn(queries_size, dims[-1], device=run.device, generator=generator)
    rankings: dict[str, Any] = {}

    def ours() -> None:
        rankings["ours"] = {dim: ranking.indices for dim, ranking in prefix_topk(queries, corpus, dims, k).items()}

    def plain() -> None:
        rankings["plain"] = {dim: _plain_top_k(queries[:, :dim], corpus[:, :dim], k) for dim in dims}

    for name, call in (("ours", ours), ("plain", plain)):
        with run.part(name):
            run.free()
            run.begin_peak()
            seconds = run.seconds(call, repeats=1 if run.tiny else 2)
            run.figures(**{name: {"seconds": seconds, "queries_per_second": queries_size / seconds, "peak_mib": run.peak_mib}})
    overlap = min(_overlap(rankings["ours"][dim], rankings["plain"][dim]) for dim in dims)
    run.figures(least_overlap=overlap)
    run.require(overlap >= LEAST_OVERLAP, f"only {overlap:.4f} of the results are those of plain torch")


def _plain_top_k(queries: Tensor, corpus: Tensor, k: int, block: int = 131_072) -> Tensor:
    queries, scores, indices = F.normalize(queries, dim=1), [], []
    for start in range(0, len(corpus), block):
        best = (queries @ F.normalize(corpus[start : start + block], dim=1).T).topk(min(k, len(corpus) - start), dim=1)
        scores.append(best.values)
        indices.append(best.indices + start)
    chosen = torch.cat(scores, dim=1).topk(k, dim=1).indices
    return torch.cat(indices, dim=1).gather(1, chosen)


def _overlap(one: Tensor, two: Tensor) -> float:
    return float((one[:, :, None] == two[:, None, :]).any(2).float().mean())


def _relative(computed: Tensor, expected: Tensor) -> float:
    return float((computed - expected).norm() / expected.norm())
