"""The gradients of an optimizer step over several batches, in micro-batches that fit into memory."""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import nn

from reelnest.errors import ConfigError, TrainingError
from reelnest.settings import Params
from reelnest.training.batches.pair_batches import PairBatch, PairBatcher
from reelnest.training.checkpoint.train_state import TrainState
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.gradients.adaptive_batch_size import BatchTooLargeError, all_or_none, average_gradients
from reelnest.training.gradients.gradient_cache import GradientCache, ModelCalls, OneGraph, Passes
from reelnest.training.losses.objective import StepLosses

log = logging.getLogger(__name__)


class StepGradients:
    """Computes the gradients of a step's batches into the parameters."""

    def __init__(self, params: Params, accelerator: Accelerator, wrapped: nn.Module, batcher: PairBatcher) -> None:
        """`wrapped` is the ContrastiveModel that accelerate prepared.

        Raises ConfigError for a sharded model with `train.adaptive_batch_size`.
        """
        self._train = params.train
        self._accelerator = accelerator
        self._wrapped = wrapped
        self._model: ContrastiveModel = accelerator.unwrap_model(wrapped)
        self._batcher = batcher
        self._unsharded = self._model.unsharded_parameters()
        calls = self._adaptive_calls() if self._train.adaptive_batch_size else self._calls()
        self._one_graph, self._cache = OneGraph(calls), GradientCache(calls)

    def __call__(self, batches: list[PairBatch], state: TrainState) -> StepLosses:
        """Runs `backward`, and repeats it with smaller micro-batches if memory does not suffice; stores their size in `state`.

        Raises TrainingError if one pair at a time does not fit.
        """
        while True:
            seed_step(self._train.seed, state.step, self._accelerator.process_index)
            try:
                return self.backward([self._batcher.resized(batch, state.micro_batch_size) for batch in batches], state.step)
            except BatchTooLargeError:
                pass  # after this block the exception, which holds the failed pass's tensors, is freed
            self._wrapped.zero_grad()
            clear_device_cache(garbage_collection=True)
            state.micro_batch_size = _halved(state.micro_batch_size, batches[0], state.step)

    def backward(self, batches: list[PairBatch], step: int) -> StepLosses:
        """Adds the gradients of the mean over `batches` to the parameters. `step` is the number of earlier optimizer steps.

        Returns this process's share of the losses. With `train.adaptive_batch_size` it may raise BatchTooLargeError; gradients are then
        invalid.
        """
        adaptive = self._train.adaptive_batch_size
        shares = []
        for index, batch in enumerate(batches):
            # Gradients are summed over processes once per step: with the last backward pass or, if adaptive, after it.
            last = index == len(batches) - 1 and not adaptive
            shares.append(self._add_gradients(batch, step, 1 / len(batches), synchronise=last))
        if adaptive:
            average_gradients(parameter for parameter in self._model.parameters() if parameter.requires_grad)
        else:
            average_gradients(self._unsharded)
        total = torch.zeros_like(shares[0].total)
        by_dim = torch.zeros_like(shares[0].by_dim)
        for share in shares:
            total += share.total
            by_dim += share.by_dim / len(batches)
        return StepLosses(total, by_dim, shares[-1].temperature)

    def _add_gradients(self, batch: PairBatch, step: int, weight: float, *, synchronise: bool) -> StepLosses:
        """Adds the gradients of one batch, times `weight`. The returned total is also multiplied by `weight`."""
        passes: Passes = self._one_graph if len(batch.inputs) == 1 else self._cache
        embedded = passes.embed(batch.inputs, synchronise=synchronise)
        vectors = embedded.vectors[batch.inverse.to(embedded.vectors.device, non_blocking=True)]
        # All batches of a step use the step's seed, so random dim weights are the same for them.
        losses = self._model.losses(vectors, embedded.learnt, batch, seed=(self._train.seed, step))
        total = losses.total * weight
        total.backward()
        passes.backward(batch.inputs, embedded, synchronise=synchronise)
        return losses._replace(total=total).detached()

    def _calls(self) -> ModelCalls:
        return ModelCalls(self._wrapped, self._accelerator.device, self._accelerator.backward, unsynced=self._unsynced)

    def _adaptive_calls(self) -> ModelCalls:
        if self._model.encoder.sharded:
            raise ConfigError(
                "train.adaptive_batch_size: not possible for a sharded model: its processes wait for each other in every layer. Set"
                " it to false, and train.micro_batch_size to a size that fits (see `reelnest memory`)."
            )
        # Not through DDP: its forward passes wait for the other processes, so one without memory could not recover.
        device = self._accelerator.device
        return ModelCalls(self._model, device, self._accelerator.backward, guard=partial(all_or_none, device))

    def _unsynced(self) -> AbstractContextManager[None]:
        # Without reduction, a sharded model would store unsharded gradients, which need more memory than all of its shards.
        unsynced: AbstractContextManager[None] = nullcontext() if self._model.encoder.sharded else self._accelerator.no_sync(self._wrapped)
        return unsynced


def _halved(micro_batch_size: int | None, batch: PairBatch, step: int) -> int:
    """Returns half of the micro-batch size that was too large for `batch`. Raises TrainingError if it was one pair."""
    present = min(micro_batch_size or batch.share, batch.share)
    if present == 1:
        raise TrainingError(
            f"training: memory does not suffice for one pair at a time (step {step + 1}). Set"
            " train.gradient_checkpointing, or use fewer frames, fewer pixels, LoRA or a smaller model; see `reelnest memory`."
        )
    log.warning(
        "training: too little memory in step %d; using micro-batches of %d pairs instead of %d, the batch size stays %d",
        *(step + 1, present // 2, present, len(batch.rows)),
    )
    return present // 2


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds a step's random numbers (dropout) from these three, so that a resumed training draws the same numbers."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1)))
