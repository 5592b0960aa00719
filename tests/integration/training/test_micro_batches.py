"""Trainings that embed their batches in micro-batches, in one process. An error on the CPU simulates a GPU's lack of memory."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelnest.encoder.batches import Batch
from reelnest.encoder.encoder import Encoder
from reelnest.errors import ConfigError, Interrupted, TrainingError
from reelnest.training.distributed import Decision, StepVotes
from tests.integration.training.training_workspace import rows, run, write_workspace

# Dropout, so that random numbers matter; AdamW, since Muon amplifies rounding.
MODEL: dict[str, object] = {"lora": {"r": 4, "dropout": 0.2}, "dims": [8, 32]}
ADAPTIVE: dict[str, Any] = {"adaptive_batch_size": True, "optimizer": "adamw", "epochs": 2}


def losses(root: Path) -> list[float]:
    """Trains in `root` and returns the loss of each step."""
    run(root)
    return [float(row["loss"]) for row in rows(root)]


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)


def limit_memory(
    monkeypatch: pytest.MonkeyPatch, share: float, *, with_graph_only: bool = False, error: RuntimeError = OUT_OF_MEMORY[0]
) -> list[int]:
    """Limits the trained encoder to this share of the first batch's tokens, and records the tokens of each batch."""
    forward: Callable[[Encoder, Batch], torch.Tensor] = Encoder.forward
    seen: list[int] = []

    def limited(self: Encoder, batch: Batch) -> torch.Tensor:
        if self.training:
            assert batch.packing is not None
            seen.append(len(batch.packing.tokens))
            if seen[-1] > share * seen[0] and (torch.is_grad_enabled() or not with_graph_only):
                raise error
        return forward(self, batch)

    monkeypatch.setattr(Encoder, "forward", limited)
    return seen


def test_micro_batches_give_the_losses_of_the_whole_batch(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = losses(write_workspace(tmp_path / "whole", prepared, optimizer="adamw", epochs=2))
    seen = limit_memory(monkeypatch, 100)
    cached = losses(write_workspace(tmp_path / "cached", prepared, optimizer="adamw", epochs=2, micro_batch_size=3))
    np.testing.assert_allclose(cached, expected, rtol=1e-4)
    assert len(seen) == 2 * 3 * len(expected)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize("with_graph_only", [False, True])
def test_too_little_memory_halves_the_micro_batch_and_repeats_the_step(
    with_graph_only: bool,
    error: RuntimeError,
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fixed = ADAPTIVE | {"adaptive_batch_size": False, "micro_batch_size": 2}
    expected = losses(write_workspace(tmp_path / "fixed", prepared, model=MODEL, **fixed))
    limit_memory(monkeypatch, 0.4, with_graph_only=with_graph_only, error=error)
    with caplog.at_level(logging.WARNING, logger="reelnest"):
        actual = losses(write_workspace(tmp_path / "found", prepared, model=MODEL, **ADAPTIVE))
    # Equal from the first step on, including dropout. Batch and learning rate are the same in both.
    assert actual == expected
    messages = [record.getMessage() for record in caplog.records if "too little memory" in record.getMessage()]
    assert [message.partition("; ")[2] for message in messages] == [
        "using micro-batches of 4 pairs instead of 8, the batch size stays 8",
        "using micro-batches of 2 pairs instead of 4, the batch size stays 8",
    ]


def test_a_resumed_training_goes_on_in_the_smaller_micro_batches(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = Encoder.forward
    limit_memory(monkeypatch, 0.4)
    unbroken = losses(write_workspace(tmp_path / "unbroken", prepared, model=MODEL, **ADAPTIVE))
    root = write_workspace(tmp_path / "stopped", prepared, model=MODEL, **ADAPTIVE)
    with monkeypatch.context() as changed:
        steps = iter(range(1, 100))
        changed.setattr(StepVotes, "decide", lambda *_, **__: Decision(stop=next(steps) == 3, checkpoint=False))
        with pytest.raises(Interrupted):
            losses(root)
    # Enough memory now: it must not go back to the settings' size, or the losses would differ in their last bits.
    monkeypatch.setattr(Encoder, "forward", unlimited)
    assert losses(root) == unbroken


def test_too_little_memory_for_one_pair_stops_training_with_advice(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, 0)
    with pytest.raises(TrainingError, match=r"does not suffice for one pair at a time \(step 1\)\. Set train\.gradient_checkpointing"):
        losses(write_workspace(tmp_path / "found", prepared, **ADAPTIVE))


def test_other_errors_and_a_fixed_size_are_not_retried(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, 0.4)
    with pytest.raises(torch.OutOfMemoryError):
        losses(write_workspace(tmp_path / "fixed", prepared, **(ADAPTIVE | {"adaptive_batch_size": False})))
    monkeypatch.setattr(Encoder, "forward", lambda *_: torch.zeros(2, 3) @ torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        losses(write_workspace(tmp_path / "other", prepared, **ADAPTIVE))


def test_a_sharded_model_cannot_adapt(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "sharded", True)
    with pytest.raises(ConfigError, match=r"train\.adaptive_batch_size: not possible for a sharded model"):
        losses(write_workspace(tmp_path / "found", prepared, **ADAPTIVE))
