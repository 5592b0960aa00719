"""The same numbers on a GPU as on a CPU, in half precision as in float32, and in a second run as in the first."""

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.inputs import LORA, FamilyOfCheck, RandomItems, accelerator_of, batcher_of, random_encoder, settings, training_of
from benchmarks.gpu.reporting import Run
from reelnest.backbones.attention import row_kernel
from reelnest.encoder.encoder import Encoder

BETWEEN: dict[str, Any] = {"hidden_size": 512, "layers": 4, "heads": 4, "vocabulary": 512, "initializer_range": 0.044}
BETWEEN |= {"vision_hidden_size": 320, "vision_layers": 4, "vision_heads": 4}
"""Small, with the heads of the published models: 128 wide in the language model, 80 in the tower."""
HEADS = {"2.5_text": (16, 2, 128), "2.5_tower": (16, 16, 80), "3_text": (16, 8, 128), "3_tower": (16, 16, 64)}
"""Of the published models: heads, key heads, width."""
FAMILIES: tuple[FamilyOfCheck, ...] = ("qwen2_5_vl", "qwen3_vl_embedding")
FLOAT32_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
LEAST_COSINE = 0.999


def parity(run: Run) -> None:
    """Vectors and gradients of both families."""
    run.require(not torch.backends.cuda.matmul.allow_tf32, "TF32 is on by default")
    for family in FAMILIES:
        with run.part(family):
            _parity_of(run, family)
    with run.part("attention kernels"):
        run.figures(attention_kernels=_attention_kernels(run))
    with run.part("rows of different lengths"):
        for name, sizes in HEADS.items():
            kernel = row_kernel(run.device, torch.bfloat16, *sizes)
            run.figures(**{f"row_kernel_{name}": None if kernel is None else kernel.__name__})
            run.require(kernel is not None or not run.on_gpu, f"{name}: torch's attention for rows of different lengths cannot be used")


def _parity_of(run: Run, family: FamilyOfCheck) -> None:
    tiny: dict[str, Any] = {} if run.tiny else {"tiny": BETWEEN, "dims": [64, 128, 512]}
    params = settings(run, family, small=True, model={**tiny, "lora": {**LORA, "vision": True}}, train={"batch_size": 8})
    here = random_encoder(params, torch.device("cpu")).eval()
    there = copy.deepcopy(here).to(run.device)
    items = RandomItems(params, here.backbone.config, 8, cached=False)
    batch = batcher_of(here, params)(items.entries)
    expected, computed = here(batch), there(batch.to(run.device))
    difference = _unit(computed).sub(_unit(expected)).abs().max().item()
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (_unit(expected) * cotangent).sum().backward()
    (F.normalize(computed.float(), dim=1) * cotangent.to(run.device)).sum().backward()
    worst = _worst_gradient(here, there)
    cosines = {"autocast": _cosine(expected, _half(there, batch.to(run.device), autocast=True))}
    cosines["bfloat16_weights"] = _cosine(expected, _half(copy.deepcopy(there).bfloat16(), batch.to(run.device), autocast=False))
    named = {f"cosine_{name}": value for name, value in cosines.items()}
    run.figures(**{family: {"difference_float32": difference, "worst_gradient": worst, **named}})
    run.require(difference <= FLOAT32_TOLERANCE, f"{family}: float32 vectors differ by {difference:.2g}")
    run.require(worst <= GRADIENT_TOLERANCE, f"{family}: a float32 gradient differs by {worst:.2g} of its length")
    for name, value in cosines.items():
        run.require(value >= LEAST_COSINE, f"{family}: {name} has a cosine of {value:.5f} with float32")


def _half(encoder: Encoder, batch: Any, *, autocast: bool) -> Tensor:
    with torch.no_grad(), torch.autocast(encoder.device.type, torch.bfloat16, enabled=autocast):
        vectors: Tensor = encoder(batch)
    return vectors


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.float().cpu(), dim=1)


def _worst_gradient(here: Encoder, there: Encoder) -> float:
    """Returns the largest difference of a weight's gradient, relative to its length, or to a thousandth of the longest."""
    pairs = [(a.grad, b.grad) for a, b in zip(here.parameters(), there.parameters(), strict=True) if a.grad is not None]
    least = 1e-3 * max(float(expected.norm()) for expected, _ in pairs)
    return max(
        float("inf") if computed is None else float((computed.cpu() - expected).norm() / expected.norm().clamp_min(least))
        for expected, computed in pairs
    )


def _cosine(expected: Tensor, computed: Tensor) -> float:
    return float((_unit(expected) * _unit(computed)).sum(1).min())


def _attention_kernels(run: Run) -> list[str] | None:
    """Returns the attention kernels of a forward and backward pass in bfloat16."""
    params = settings(run, small=True, model={"dtype": "bfloat16", **({} if run.tiny else {"tiny": BETWEEN, "dims": [512]})})
    encoder = random_encoder(params, run.device)
    items = RandomItems(params, encoder.backbone.config, 4, cached=False)
    batch = batcher_of(encoder, params)(items.entries).to(run.device)
    encoder(batch).sum().backward()
    if not run.on_gpu:
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        encoder(batch).sum().backward()
        run.synchronize()
    names = {event.key for event in profiled.key_averages()}
    return sorted(name[:100] for name in names if any(word in name.lower() for word in ("flash", "fmha", "attention", "varlen")))


def equal_runs(run: Run) -> None:
    """Two trainings from the same seed."""
    for deterministic in (False, True):
        name = "deterministic" if deterministic else "as it is"
        with run.part(name):
            torch.use_deterministic_algorithms(deterministic, warn_only=True)
            first, second = (_weights_after_steps(run) for _ in range(2))
            differing = [key for key, value in first.items() if not torch.equal(value, second[key])]
            furthest = max(float((value - second[key]).abs().max()) for key, value in first.items())
            run.figures(**{name: {"equal": not differing, "differing_tensors": len(differing), "of": len(first), "furthest": furthest}})


def _weights_after_steps(run: Run) -> dict[str, Tensor]:
    tiny: dict[str, Any] = {} if run.tiny else {"tiny": BETWEEN, "dims": [64, 128, 512]}
    params = settings(run, small=True, model=tiny, train={"mixed_precision": "bf16", "batch_size": 8})
    accelerator = accelerator_of(run, params)
    made = training_of(params, random_encoder(params, run.device), accelerator, cached=False)
    for _ in range(4):
        made.take_step(0, made._make_step(np.arange(8)[None]))
    losses = torch.tensor([row.losses for row in made._history.flush()])
    return {"losses": losses, **{name: value.cpu() for name, value in made.model.encoder.trainable_state().items()}}
