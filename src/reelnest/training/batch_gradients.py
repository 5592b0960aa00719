"""The gradients of an optimizer step: of several batches, in micro-batches that fit into memory."""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn

from reelnest.errors import ConfigError, TrainingError
from reelnest.settings import Params
from reelnest.training.adaptive_batch_size import BatchTooLargeError, all_or_none, average_gradients
from reelnest.training.batches.pair_batches import PairBatch, PairBatcher
from reelnest.training.gradient_cache import GradientCache
from reelnest.training.losses.contrastive_model import ContrastiveModel, contrastive_losses
from reelnest.training.losses.losses import LossScales, weighted

log = logging.getLogger(__name__)


class BatchGradients:
    """Puts the gradients of a step's batches into the parameters."""

    def __init__(self, params: Params, accelerator: Accelerator, wrapped: nn.Module, batcher: PairBatcher, batch_size: int) -> None:
        """`wrapped` is the ContrastiveModel as accelerate prepared it; `batch_size` is in pairs, over all processes.

        Raises ConfigError for a sharded model with `train.adaptive_batch_size`.
        """
        self._train = params.train
        self._loss = params.loss
        self._dims = params.model.dims
        self._accelerator = accelerator
        self._wrapped = wrapped
        self._model: ContrastiveModel = accelerator.unwrap_model(wrapped)
        self._batcher = batcher
        self._batch_size = batch_size
        device, backward = accelerator.device, accelerator.backward
        if not self._train.adaptive_batch_size:
            self._cache = GradientCache(wrapped, device, backward=backward, unsynced=self._unsynced)
            return
        if self._model.encoder.sharded:
            raise ConfigError(
                "train.adaptive_batch_size: the processes of a sharded model wait for each other in every layer, so that one cannot report"
                " that its memory does not suffice. Set it to false and train.micro_batch_size to what fits (see `reelnest memory`)."
            )
        # Not through DDP, whose forward passes wait for the other processes: one that ran out of memory in them would be lost.
        self._cache = GradientCache(self._model, device, backward=backward, guard=partial(all_or_none, device))

    def __call__(self, batches: list[PairBatch], step: int) -> tuple[Tensor, Tensor, Tensor]:
        """`backward`, repeated in smaller micro-batches where memory does not suffice for those of the settings.

        `step` counts the optimizer steps before this one. Raises TrainingError where not even one pair at a time fits.
        """
        while True:
            seed_step(self._train.seed, step, self._accelerator.process_index)
            try:
                return self.backward([self._batcher.again(batch) for batch in batches], step)
            except BatchTooLargeError:
                pass  # the exception holds the failed pass's tensors: only here are they gone
            self._wrapped.zero_grad()
            clear_device_cache(garbage_collection=True)
            share = self._batch_size // self._accelerator.num_processes
            present = min(self._batcher.micro_batch_size or share, share)
            if present == 1:
                raise TrainingError(
                    f"training: the memory does not suffice for one pair at a time (step {step + 1}). Set"
                    " train.gradient_checkpointing, or use fewer frames, fewer pixels, LoRA or a smaller model; see `reelnest memory`."
                )
            self._batcher.micro_batch_size = present // 2
            log.warning(
                "training: too little memory in step %d; going on with micro-batches of %d pairs instead of %d, the batch stays %d",
                *(step + 1, present // 2, present, self._batch_size),
            )

    def backward(self, batches: list[PairBatch], step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Adds the gradients of the mean over `batches` to the parameters.

        Returns this process's share of the loss, () and by dim (dims,), and the temperature (1,). Means over processes are the whole's.
        Raises BatchTooLargeError with `train.adaptive_batch_size`; gradients are then of no use.
        """
        device = self._accelerator.device
        total, by_dim, temperature = torch.zeros((), device=device), torch.zeros(len(self._dims), device=device), torch.zeros(1)
        adaptive = self._train.adaptive_batch_size
        for index, batch in enumerate(batches):
            # Gradients are summed over processes once a step, with the last backward pass; or after it, once all processes came through.
            last = index == len(batches) - 1 and not adaptive
            loss, losses, temperature = self._add_gradients(batch, step, 1 / len(batches), synchronise=last)
            total += loss
            by_dim += losses / len(batches)
        if adaptive:
            average_gradients(parameter for parameter in self._model.parameters() if parameter.requires_grad)
        return total, by_dim, temperature

    def _add_gradients(self, batch: PairBatch, step: int, weight: float, *, synchronise: bool) -> tuple[Tensor, Tensor, Tensor]:
        seen: list[Tensor] = []

        def loss(vectors: Tensor, scales: LossScales) -> Tensor:
            losses = contrastive_losses(vectors[batch.order.to(vectors.device)], scales.temperature, batch, self._dims, self._loss)
            seen.extend([losses.detach(), scales.temperature.detach()])
            # A step's batches count the same dims.
            seed = (self._train.seed, step)
            return weighted(losses, self._loss.dim_weights, log_variances=scales.log_variances, seed=seed) * weight

        value = self._cache(batch.inputs, loss, synchronise=synchronise)
        return value, seen[0], seen[1]

    def _unsynced(self) -> AbstractContextManager[None]:
        # A sharded model that does not reduce its gradients keeps them whole, and that is more than its share of everything else.
        quiet: AbstractContextManager[None] = nullcontext() if self._model.encoder.sharded else self._accelerator.no_sync(self._wrapped)
        return quiet


def seed_step(seed: int, step: int, rank: int) -> None:
    """Makes what a step draws (dropout) a function of these three, so that a resumed training draws what an unbroken one would."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1)))
