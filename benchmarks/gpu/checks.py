"""The checks, the most valuable first."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A function that is run in a process of its own."""

    name: str
    what: str
    function: str
    """`module:function`. The function takes a `reporting.Run`."""
    needs_s: float
    """The seconds that it is expected to take on an H100: with less left of the budget, it is skipped."""
    limit_s: float
    """It is killed after these seconds."""


CHECKS = (
    Check("parity", "vectors and gradients: GPU and CPU in float32, bfloat16 and float32", "benchmarks.gpu.parity:parity", 15, 60),
    Check(
        "train-qwen2.5-vl-3b",
        "steps of Qwen2.5-VL-3B: LoRA, bfloat16, gradient checkpointing, 8 pairs, 16 frames of 224 × 224; peak against `reelnest memory`",
        "benchmarks.gpu.training:qwen2_5_vl",
        45,
        110,
    ),
    Check("evaluation", "embedding with the training's precision and without", "benchmarks.gpu.precision:evaluation", 20, 50),
    Check("fsdp2", "a sharded model, world of one: mining first, projection, save and resume", "benchmarks.gpu.sharding:fsdp2", 15, 60),
    Check("fsdp2-accelerate", "the same, sharded by accelerate", "benchmarks.gpu.sharding:fsdp2_accelerate", 15, 60),
    Check("sentence-transformers", "the same steps, weights and inputs in sentence-transformers", "benchmarks.gpu.peer:training", 40, 110),
    Check(
        "nested-loss",
        "nested loss, 16,384 × 16,384 at five dims, and the plain loop",
        "benchmarks.gpu.search:nested_loss",
        10,
        40,
    ),
    Check("top-k", "top 100 of 1,000 queries in 1,000,000 vectors at five dims, and plain torch", "benchmarks.gpu.search:top_k", 15, 60),
    Check("fp16", "float16 with overflows: the scaler skips steps and recovers", "benchmarks.gpu.precision:fp16", 10, 40),
    Check("equal-runs", "two runs with the same seed, bit by bit", "benchmarks.gpu.parity:equal_runs", 10, 40),
    Check(
        "train-qwen3-vl-embedding-2b",
        "steps of Qwen3-VL-Embedding-2B, likewise",
        "benchmarks.gpu.training:qwen3_vl_embedding",
        40,
        100,
    ),
    Check("qlora-8gb", "4-bit weights with LoRA in 8 GiB", "benchmarks.gpu.training:qlora", 40, 90),
    Check("compile", "steps with and without train.compile", "benchmarks.gpu.training:compiled", 50, 110),
)
