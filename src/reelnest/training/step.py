"""One optimizer step, and the state that it changes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor

from reelnest.encoder.ema import Ema
from reelnest.profiling.phases import phase
from reelnest.settings import Params
from reelnest.training.batches.pair_batches import PairBatch, PairBatcher
from reelnest.training.checkpoint.history import StepFigures
from reelnest.training.checkpoint.train_state import TrainState
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.distributed import clip_gradients
from reelnest.training.gradients.step_gradients import StepGradients
from reelnest.training.optimizer import build_optimizer, build_scheduler


class TrainingStep:
    """Model, optimizer, learning rate and moving average of the weights, and the step that updates them."""

    def __init__(self, params: Params, accelerator: Accelerator, model: ContrastiveModel, batcher: PairBatcher, total_steps: int) -> None:
        """`total_steps` is the length of the learning rate schedule."""
        self._train = params.train
        self._tf32 = params.train.mixed_precision != "no" if params.train.tf32 is None else params.train.tf32
        self.accelerator = accelerator
        optimizer = build_optimizer(model, self._train)
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.model: ContrastiveModel = accelerator.unwrap_model(self.wrapped)  # sharded under FSDP2, otherwise `model` itself
        self._is_sharded = self.model.encoder.sharded
        if self.model.encoder.vision_is_cached and not self._is_sharded:
            self.model.encoder.release_vision_tower()
        self._trainable = [parameter for parameter in self.wrapped.parameters() if parameter.requires_grad]
        self.scheduler = build_scheduler(self.optimizer.optimizer, self._train, total_steps)
        self.ema = None if self._train.ema_decay is None else Ema(self.model, self._train.ema_decay)
        self.gradients = StepGradients(params, accelerator, self.wrapped, batcher)

    def __call__(self, batches: list[PairBatch], state: TrainState) -> StepFigures:
        """Takes the next step and counts it in `state`."""
        with tf32(self._tf32):
            return self._step(batches, state)

    def _step(self, batches: list[PairBatch], state: TrainState) -> StepFigures:
        with phase("loss"):
            losses = self.gradients(batches, state)
        with phase("optimizer"):
            norm = self._clipped_norm()
            learning_rate = float(self.scheduler.get_last_lr()[0])
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.model.objective.limit_parameters()
            if not self.accelerator.optimizer_step_was_skipped:  # fp16's scaler skips a step if gradients overflow
                self.scheduler.step()
                if self.ema is not None:
                    self.ema.update()
        state.step += 1
        return StepFigures(losses.total, losses.by_dim, losses.temperature, learning_rate, norm)

    def _clipped_norm(self) -> Tensor:
        """Clips the gradients and returns their norm before clipping."""
        largest = self._train.max_gradient_norm or math.inf
        if self._is_sharded:
            self.accelerator.unscale_gradients()
            return clip_gradients(self._trainable, largest)
        norm: Tensor = self.accelerator.clip_grad_norm_(self._trainable, largest)
        return norm


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Sets whether float32 products on a GPU may be computed in TF32, for the duration of the block."""
    products = torch.backends.cuda.matmul
    before = products.allow_tf32
    products.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32 = before
