"""Memory of a training step that embeds its batch bit by bit, or keeps fewer activations, beside one that does not.

Measured in processes of their own, as benchmarks/memory_prediction.py does it: by the growth of resident memory, with an allocator that
gives freed blocks back. Videos are not counted: training reads them from the memory-mapped store.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.memory_prediction import GIVING_BACK, PREPROCESS, forget_peak, kilobytes, random_training
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

    from reelnest.settings import Params

    torch.set_num_threads(2)
    chosen = CASES[case]
    whole = "micro_batch_size" in chosen["train"]
    accelerator = Accelerator(cpu=True)

    def prepare(train: dict[str, Any]) -> tuple[Any, Any]:
        preprocess = PREPROCESS | {"frames": chosen["frames"]}
        model_settings = {"tiny": chosen["tiny"], "dims": [64, chosen["tiny"]["hidden_size"]]}
        params = Params.model_validate({"preprocess": preprocess, "model": model_settings, "train": train, "launch": {"config": "cpu-1"}})
        return random_training(params, accelerator)

    # What the libraries take for themselves when they are first used is not the step's.
    training, batches = prepare(chosen["train"] | {"batch_size": 2})
    training.take_step(0, batches())
    if whole:
        before = kilobytes("VmRSS")
        forget_peak()
        training, batches = prepare(chosen["train"])
        training.take_step(0, batches())
        return kilobytes("VmHWM") - before
    training, batches = prepare(chosen["train"])
    made = batches()
    for parameter in training.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = kilobytes("VmRSS")
    forget_peak()
    training.gradients.backward(made, 0)
    return kilobytes("VmHWM") - before


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
