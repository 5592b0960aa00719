"""Memory of a training step that embeds its batch bit by bit, or keeps fewer activations, beside one that does not.

Measured in processes of their own, as benchmarks/memory_prediction.py does it: by the growth of resident memory, with an allocator that
gives freed blocks back. Videos are not counted: training reads them from the memory-mapped store.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.memory_prediction import GIVING_BACK, PREPROCESS, TEXT_TOKENS
from benchmarks.side_by_side import ROOT, Benchmark

SMALL = {"hidden_size": 256, "layers": 2, "heads": 4, "vision_hidden_size": 128, "vision_layers": 2, "vision_heads": 4}
DEEP = SMALL | {"layers": 12}
MICRO_BATCHES: dict[str, Any] = {"optimizer": "adamw", "micro_batch_size": 16}
CASES: dict[str, dict[str, Any]] = {
    "512 in 16s": {"tiny": SMALL, "frames": 8, "train": MICRO_BATCHES | {"batch_size": 512}},
    "64 in 16s": {"tiny": SMALL, "frames": 8, "train": MICRO_BATCHES | {"batch_size": 64}},
    "checkpointing": {"tiny": DEEP, "frames": 64, "train": {"batch_size": 4, "gradient_checkpointing": True}},
    "no checkpointing": {"tiny": DEEP, "frames": 64, "train": {"batch_size": 4}},
}


def measured(case: str) -> float:
    """Kilobytes by which this process grows at most in a step.

    With micro-batches, of weights, gradients and optimizer too; otherwise of activations alone.
    """
    import torch
    from accelerate import Accelerator

    from reelnest.config import Params
    from reelnest.model.published import backbone_config
    from reelnest.model.unfilled import unfilled_encoder
    from reelnest.training.contrastive import ContrastiveModel
    from reelnest.training.memory import stand_in_training
    from reelnest.training.step_shapes import Sizes, largest_grid, stand_in_batcher, step_of

    torch.set_num_threads(2)
    chosen = CASES[case]
    whole = "micro_batch_size" in chosen["train"]
    accelerator = Accelerator(cpu=True)

    def prepare(train: dict[str, Any]) -> tuple[Any, Any]:
        preprocess = PREPROCESS | {"frames": chosen["frames"]}
        model_settings = {"tiny": chosen["tiny"], "dims": [64, chosen["tiny"]["hidden_size"]]}
        params = Params.model_validate({"preprocess": preprocess, "model": model_settings, "train": train, "launch": {"config": "cpu-1"}})
        config = backbone_config(params.model)
        encoder = unfilled_encoder(params.model, config).to_empty(device="cpu")
        for tensor in [*encoder.parameters(), *encoder.buffers()]:
            tensor.data.normal_(std=0.02)
        if params.train.gradient_checkpointing:
            encoder.enable_gradient_checkpointing()
        model = ContrastiveModel(encoder, params.loss, len(params.model.dims))
        batcher = stand_in_batcher(params, config, Sizes(TEXT_TOKENS, largest_grid(params.preprocess)))
        training = stand_in_training(params, accelerator, model, batcher)
        return training, lambda: step_of(params, batcher)

    # What the libraries take for themselves when they are first used is not the step's.
    training, batches = prepare(chosen["train"] | {"batch_size": 2})
    training.step(0, batches())
    if whole:
        before = _status("VmRSS")
        _forget_peak()
        training, batches = prepare(chosen["train"])
        training.step(0, batches())
        return _status("VmHWM") - before
    training, batches = prepare(chosen["train"])
    made = batches()
    for parameter in training.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = _status("VmRSS")
    _forget_peak()
    training.backward(made)
    return _status("VmHWM") - before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _of(case: str) -> Callable[[], Any]:
    def measure() -> dict[str, float]:
        command = [sys.executable, "-m", "benchmarks.step_memory", case]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | GIVING_BACK, stdout=subprocess.PIPE, text=True, check=True)
        return {"kilobytes": float(json.loads(done.stdout.splitlines()[-1]))}

    return measure


BENCHMARKS = {
    "gradcache-memory": Benchmark(
        "peak memory of making a model and one training step with a batch of 512 in micro-batches of 16",
        "the same with a batch of 64 in micro-batches of 16",
        1 / 1.15,
        lambda: _of("512 in 16s"),
        lambda: _of("64 in 16s"),
        runs=3,
        unit="kilobytes",
        counts=True,
    ),
    "checkpointing-memory": Benchmark(
        "activation memory of 12 layers and 64 frames a video with gradient checkpointing",
        "the same without",
        1 / 0.4,
        lambda: _of("checkpointing"),
        lambda: _of("no checkpointing"),
        runs=3,
        unit="kilobytes",
        counts=True,
    ),
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(measured(sys.argv[1])) + "\n")
