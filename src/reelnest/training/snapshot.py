"""Saves the training state to a checkpoint and restores it exactly."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.distributed.fsdp import FSDPModule

from reelnest.training.batches.negatives import ExtraNegatives
from reelnest.training.checkpoint import checkpoints as saved
from reelnest.training.checkpoint.checkpoints import Checkpoints
from reelnest.training.checkpoint.history import History
from reelnest.training.checkpoint.sharded_state import load_own_shard, own_shard
from reelnest.training.checkpoint.train_state import TrainState
from reelnest.training.step import TrainingStep


class Snapshots:
    """Saves and restores the whole training state. Every process creates one and calls it after the same steps."""

    def __init__(self, checkpoints: Checkpoints, keep: int, step: TrainingStep, history: History, negatives: ExtraNegatives | None) -> None:
        """`keep` is the number of checkpoints to keep."""
        self._checkpoints = checkpoints
        self._keep = keep
        self._step = step
        self._history = history
        self._negatives = negatives

    def save(self, state: TrainState) -> None:
        """Saves a checkpoint. Every process calls it and writes its shard; the main process writes the shared state."""
        step, accelerator = self._step, self._step.accelerator
        weights: dict[str, Any] = {"shards": accelerator.num_processes}
        if isinstance(step.model, FSDPModule):
            self._checkpoints.save_shard(state.step, own_shard(step.model, step.optimizer.optimizer, step.ema))
        else:
            weights = {
                "weights": saved.trainable_state(step.model),
                "optimizer": saved.optimizer_state(step.model, step.optimizer.optimizer),
                "ema": None if step.ema is None else step.ema.state(),
            }
        if state.best.step == state.step:
            with self.evaluated_weights():
                best = saved.trainable_state(step.model)
            if accelerator.is_main_process:
                self._checkpoints.save_best(best, state.step)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            contents = {
                **weights,
                "scheduler": step.scheduler.state_dict(),
                "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
                "history": self._history.state(),
                "negatives": None if self._negatives is None else self._negatives.state(),
                "state": state.saved(),
            }
            self._checkpoints.save(state.step, contents, self._keep)
        accelerator.wait_for_everyone()

    def restore(self) -> TrainState | None:
        """Restores the last checkpoint and returns its TrainState; None without a checkpoint."""
        contents = self._checkpoints.load_last()
        if contents is None:
            return None
        step, scaler = self._step, self._step.accelerator.scaler
        if "shard" in contents:
            load_own_shard(step.model, step.optimizer.optimizer, step.ema, contents["shard"])
        else:
            saved.load_trainable_state(step.model, contents["weights"])
            if step.ema is not None:
                step.ema.load_state(contents["ema"])
            saved.load_optimizer_state(step.model, step.optimizer.optimizer, contents["optimizer"])
        step.scheduler.load_state_dict(contents["scheduler"])
        if contents["scaler"] is not None and scaler is not None:
            scaler.load_state_dict(contents["scaler"])
        self._history.load_state(contents["history"])
        if self._negatives is not None:
            self._negatives.load_state(contents["negatives"])
        return TrainState.loaded(contents["state"])

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """Puts the weights for evaluation and for the candidate into the model, for the duration of the block."""
        return nullcontext() if self._step.ema is None else self._step.ema.in_place()
