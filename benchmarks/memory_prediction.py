"""What `reelnest memory` foretells, beside what the same step takes in a process of its own, on the CPU.

A process's resident memory is what the C library's allocator holds, not what is in use: glibc keeps freed blocks in case they are asked for
again. The measured processes are told to give them back (GIVING_BACK); without that, the first case grows by 16 % more. Nor is the scratch
of a kernel foretold: with bfloat16 autocast, which a CPU does by way of float32, the last case is measured 9 % above its prediction.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import ROOT, Benchmark

TEXT_TOKENS = 32
GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
PREPROCESS = {"frames": 8, "min_pixels": 12544, "max_pixels": 12600}  # 112 x 112
CASES: dict[str, dict[str, Any]] = {
    "everything trained, AdamW": {
        "model": {"tiny": {"hidden_size": 512, "layers": 6, "heads": 8, "vision_hidden_size": 384, "vision_heads": 6, "vision_layers": 4}},
        "train": {"batch_size": 8, "optimizer": "adamw"},
    },
    "LoRA, frozen tower, gradient checkpointing": {
        "model": {
            "tiny": {"hidden_size": 768, "layers": 8, "heads": 12, "vision_hidden_size": 256, "vision_heads": 4, "vision_layers": 4},
            "freeze": "vision",
            "lora": {"r": 16, "dropout": 0.1},
        },
        "train": {"batch_size": 24, "optimizer": "adamw", "gradient_checkpointing": True},
    },
    "gradient caching, Muon": {
        "model": {"tiny": {"hidden_size": 512, "layers": 6, "heads": 8, "vision_hidden_size": 256, "vision_heads": 4, "vision_layers": 4}},
        "train": {"batch_size": 16, "micro_batch_size": 4, "optimizer": "muon"},
    },
}


def _params(case: str) -> Any:
    from reelnest.settings import Params

    settings = CASES[case]
    hidden = settings["model"]["tiny"]["hidden_size"]
    model = {**settings["model"], "dims": [64, hidden]}
    return Params.model_validate({"preprocess": PREPROCESS, "model": model, "train": settings["train"], "launch": {"config": "cpu-1"}})


def _sizes(params: Any) -> Any:
    from reelnest.backbones.families.qwen2_5_vl import VISION
    from reelnest.training.memory_prediction.step_shapes import Sizes, largest_grid

    return Sizes(TEXT_TOKENS, largest_grid(params.preprocess, VISION))


def predicted(case: str) -> float:
    """Bytes."""
    from reelnest.backbones.architecture import backbone_config
    from reelnest.training.memory_prediction.step_memory import predict_step

    params = _params(case)
    return float(predict_step(params, backbone_config(params.model), _sizes(params)).peak)


def random_training(params: Any, accelerator: Any) -> tuple[Any, Callable[[], Any]]:
    """The loop around a model with random weights, and what makes a step's batches for it."""
    from reelnest.backbones.architecture import backbone_config
    from reelnest.encoder.unfilled import unfilled_encoder
    from reelnest.training.contrastive_model import ContrastiveModel
    from reelnest.training.memory_prediction.step_memory import stand_in_training
    from reelnest.training.memory_prediction.step_shapes import stand_in_batcher, step_of

    config = backbone_config(params.model)
    encoder = unfilled_encoder(params.model, config).to_empty(device="cpu")
    for tensor in [*encoder.parameters(), *encoder.buffers()]:
        tensor.data.normal_(std=0.02)
    if params.train.gradient_checkpointing:
        encoder.enable_gradient_checkpointing()
    batcher = stand_in_batcher(params, config, _sizes(params))
    model = ContrastiveModel(encoder, params.loss, params.model.dims)
    return stand_in_training(params, accelerator, model, batcher), lambda: step_of(params, batcher)


def measured(case: str) -> float:
    """Bytes by which this process grows at most when it makes the model and takes two steps. For a process of its own."""
    import torch
    from accelerate import Accelerator

    torch.set_num_threads(2)

    def steps(params: Any) -> None:
        training, batches = random_training(params, Accelerator(cpu=True, mixed_precision=params.train.mixed_precision))
        for _ in range(2):
            training.take_step(0, batches())

    params = _params(case)
    small = params.model.tiny.model_copy(update={"hidden_size": 64, "heads": 2, "vision_hidden_size": 32, "vision_heads": 2})
    model = params.model.model_copy(update={"tiny": small, "dims": (64,)})
    # What the libraries take for themselves when they are first used is the process's, not the step's.
    steps(params.model_copy(update={"model": model, "train": params.train.model_copy(update={"batch_size": 2, "micro_batch_size": None})}))
    before = kilobytes("VmRSS")
    forget_peak()
    steps(params)
    return 1024.0 * (kilobytes("VmHWM") - before)


def kilobytes(field: str) -> float:
    """This process's resident memory, now (`VmRSS`) or at its peak (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    """The peak starts again from here."""
    Path("/proc/self/clear_refs").write_text("5")


def _largest_error() -> Callable[[], Any]:
    def measure() -> dict[str, float]:
        errors = []
        for case in CASES:
            command = [sys.executable, "-m", "benchmarks.memory_prediction", case]
            done = subprocess.run(command, cwd=ROOT, env=os.environ | GIVING_BACK, stdout=subprocess.PIPE, text=True, check=True)
            measured = json.loads(done.stdout.splitlines()[-1])
            prediction = predicted(case)
            errors.append(abs(prediction / measured - 1))
            sys.stderr.write(f"{case}: {prediction / 1e6:.0f} MB predicted, {measured / 1e6:.0f} MB measured\n")
        return {"error": max(errors)}

    return measure


BENCHMARKS = {
    "memory-prediction": Benchmark(
        f"the largest error of {len(CASES)} predicted peaks of a training step ({'; '.join(CASES)})",
        "an error of 10 %, by the growth of a fresh process's resident memory",
        1.0,
        _largest_error,
        lambda: lambda: {"error": 0.1},
        runs=1,
        unit="error",
    ),
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(measured(sys.argv[1])) + "\n")
