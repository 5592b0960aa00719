"""The base class and the registry of losses.

A new loss is a class of settings (`settings/loss.py`) and a file in this package with a class like this:

    @register_loss(CosineSettings)
    class Cosine(Loss):
        def __init__(self, settings: CosineSettings, dims: Sequence[int]) -> None:
            super().__init__(settings, dims)
            ...

        def forward(self, vectors: Tensor, batch: PairBatch) -> Tensor:
            ...  # (dims,)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from reelnest.errors import ConfigError
from reelnest.settings import LossSettings
from reelnest.training.batches.pair_batches import PairBatch


class Loss(nn.Module, ABC):
    """Computes a loss for each dim from one process's vectors, with the items of all processes as negatives.

    Learnt values are ordinary parameters and train with the encoder's. They have at least one dimension, because sharded training does not
    support scalars. In `forward` they are always unsharded.
    """

    def __init__(self, settings: LossSettings, dims: Sequence[int]) -> None:
        """`dims` are the prefix lengths, ascending."""
        super().__init__()
        self.settings = settings
        self.dims = tuple(dims)

    @abstractmethod
    def forward(self, vectors: Tensor, batch: PairBatch) -> Tensor:
        """Returns losses (dims,) of this process's share of the batch.

        `vectors` (entries, width) are those of the share's queries, targets and extra negatives, in this order, not normalised. The mean
        of the losses over processes must be the loss of the whole batch, and the mean of the gradients its gradient.
        `gather.gather_batch` gathers the other processes' vectors in this way.
        """

    @property
    def temperature(self) -> Tensor:
        """The divisor of the cosines, (1,), for the training report. 1 for a loss without a temperature."""
        return torch.ones(1)

    def limit_parameters(self) -> None:
        """Clamps learnt values to their range. Called after each optimizer step, without gradient."""


L = TypeVar("L", bound=Loss)

_registered: dict[type[LossSettings], type[Loss]] = {}


def register_loss(settings: type[LossSettings]) -> Callable[[type[L]], type[L]]:
    """Registers the decorated class as the loss for the class `settings`."""

    def register(loss: type[L]) -> type[L]:
        _registered[settings] = loss
        return loss

    return register


def registered_loss(settings: LossSettings) -> type[Loss]:
    """Returns the loss class registered for the class of `settings`. Raises ConfigError if there is none."""
    if type(settings) not in _registered:
        known = ", ".join(sorted(known.model_fields["name"].default for known in _registered))
        raise ConfigError(
            f"loss.name: {settings.name} has settings ({type(settings).__name__}), but no loss is registered for them; known: {known}."
            " See docs/extending.md."
        )
    return _registered[type(settings)]
