"""The output of `reelnest memory`."""

from pathlib import Path

import pytest
import yaml

from reelnest.backbones.architecture import backbone_config
from reelnest.commands import memory
from reelnest.profiling.throughput import Work
from reelnest.settings import Params, load_params
from reelnest.stages.workspace import Workspace
from reelnest.training.memory_prediction.step_shapes import Sizes
from reelnest.training.memory_prediction.step_work import step_work
from tests.integration.training.training_workspace import write_workspace


def memory_output(root: Path, launch: str, gpu_gb: float | None = None) -> str:
    settings = yaml.safe_load((root / "params.yaml").read_text())
    settings["launch"]["config"] = launch
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    return memory.run(Workspace(root), load_params(root / "params.yaml"), gpu_gb=gpu_gb, text_tokens=1000)


def test_the_command_prints_the_memory_by_component_and_what_fits(prepared: Path, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "checkout", prepared)
    text = memory_output(root, "cpu-1")
    assert "tiny, one process, step of 8 pairs (micro-batches of 8)" in text
    assert "a text of 256 tokens" in text  # limited by model.max_text_tokens
    rows = {line.split()[0]: line for line in text.splitlines()[1:]}
    assert list(rows) == ["weights", "gradients", "optimizer", "activations", "vision", "loss", "inputs", "peak"]
    text = memory_output(root, "gpu-fsdp2", gpu_gb=8)
    assert "one of 4 processes" in text
    assert "each process holds 1/4 of weights, gradients and optimizer, plus the unsharded embeddings" in text
    assert "with the current settings: " in text
    assert "MiB, fits; largest micro-batch 2 pairs" in text


def test_the_command_prints_the_computation_of_a_step_for_a_gpu_as_a_guess(prepared: Path, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "checkout", prepared)
    assert "Computation" not in memory_output(root, "cpu-1")
    assert "(an assumption, not a measurement)" in memory_output(root, "gpu-1")


def test_the_predicted_work_is_that_of_the_batches_whatever_the_bits_of_the_weights() -> None:
    def work(batch_size: int, **model: object) -> Work:
        lora = {"r": 4, "merge": False}
        settings = {"name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct", "revision": "0", "dims": [64], "lora": lora, **model}
        params = Params.model_validate({"model": settings, "train": {"batch_size": batch_size}})
        return step_work(params, backbone_config(params.model), Sizes(text_tokens=10, grid=(1, 2, 2)))

    one, two, packed = work(2), work(4), work(2, load_in_4bit=True)
    assert (two.tokens, two.flops) == (2 * one.tokens, pytest.approx(2 * one.flops))
    assert packed == one
    # 2.77 billion weights in the layers, once forward and once backward; adapters and attention add little.
    assert one.flops == pytest.approx(4 * 2.77e9 * one.tokens, rel=0.1)
