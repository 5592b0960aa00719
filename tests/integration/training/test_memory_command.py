"""The output of `reelnest memory`."""

from pathlib import Path

import yaml

from reelnest.commands import memory
from reelnest.settings import load_params
from reelnest.stages.workspace import Workspace
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
