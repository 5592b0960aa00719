"""Mixed precision outside and inside the training step."""

import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import GradScalerKwargs
from torch import Tensor

from benchmarks.gpu.inputs import RandomItems, batcher_of, random_encoder, settings, training_of
from benchmarks.gpu.reporting import Run
from reelnest.encoder.batches import Batcher
from reelnest.encoder.embedding import embed
from reelnest.encoder.encoder import Encoder
from reelnest.store.entries import Entry

LEAST_GAIN = 4.0
LEAST_COSINE = 0.99
OVERFLOWING_SCALE = 2.0**32


def evaluation(run: Run) -> None:
    """Embeds videos and texts with float32 weights, in bfloat16 products as in training, and without."""
    params = settings(run, model={"freeze": "vision"}, train={"mixed_precision": "bf16"})
    encoder = random_encoder(params, run.device).eval()
    batcher = batcher_of(encoder, params)
    items = RandomItems(params, encoder.backbone.config, 4 if run.tiny else 32, cached=True)
    vectors = {}
    for name, dtype, entries in (("bf16", torch.bfloat16, items.entries), ("float32", None, items.entries)):
        encoder.autocast_dtype = dtype
        with run.part(name):
            embed(encoder, batcher, entries[:2], 16, "warm up")
            run.begin_peak()
            vectors[name], seconds = _timed(run, encoder, batcher, entries)
            run.figures(**{name: {"items_per_second": len(entries) / seconds, "peak_mib": run.peak_mib}})
            vectors[f"{name} seconds"] = torch.tensor(seconds)
    gain = float(vectors["float32 seconds"] / vectors["bf16 seconds"])
    cosine = float((F.normalize(vectors["bf16"], dim=1) * F.normalize(vectors["float32"], dim=1)).sum(1).min())
    run.figures(gain=gain, least_cosine=cosine)
    run.require(cosine >= LEAST_COSINE, f"a vector in bfloat16 has a cosine of {cosine:.4f} with float32's")
    run.require(gain >= LEAST_GAIN or not run.on_gpu, f"bfloat16 is only {gain:.1f} times as fast")


def _timed(run: Run, encoder: Encoder, batcher: Batcher, entries: Sequence[Entry]) -> tuple[Tensor, float]:
    started = time.perf_counter()
    vectors = embed(encoder, batcher, entries, 16, "embed")
    run.synchronize()
    return vectors, time.perf_counter() - started


def fp16(run: Run) -> None:
    """Steps in float16 from a scale that overflows: steps are skipped, change nothing, and then go on."""
    # Without a GPU there is no float16, so that only the check itself is tried, in bfloat16.
    params = settings(run, small=True, train={"mixed_precision": "fp16" if run.on_gpu else "bf16", "ema_decay": 0.9})
    accelerator = Accelerator(
        cpu=not run.on_gpu, mixed_precision=params.train.mixed_precision, kwargs_handlers=[GradScalerKwargs(init_scale=OVERFLOWING_SCALE)]
    )
    made = training_of(params, random_encoder(params, run.device), accelerator, cached=False)
    training, rows = made, np.arange(params.train.batch_size)[None]
    skipped, changed_when_skipped = 0, 0
    for _ in range(8 if run.tiny else 40):
        before = {name: value.clone() for name, value in training.model.encoder.trainable_state().items()}
        training.take_step(0, training._make_step(rows))
        if accelerator.optimizer_step_was_skipped:
            skipped += 1
            after = training.model.encoder.trainable_state()
            changed_when_skipped += sum(not torch.equal(before[name], after[name]) for name in before)
    losses = [row.loss for row in training._history.flush()]
    scale = None if accelerator.scaler is None else accelerator.scaler.get_scale()
    run.figures(skipped=skipped, steps=len(losses), first_loss=losses[0], last_loss=losses[-1], scale=scale)
    run.require(changed_when_skipped == 0, "a skipped step changed weights")
    run.require(skipped > 0 or not run.on_gpu, "no step was skipped, so the overflow was not detected")
    run.require(not accelerator.optimizer_step_was_skipped, "the last step was skipped too")
    run.require(bool(np.isfinite(losses).all()), f"losses are not finite: {losses}")
