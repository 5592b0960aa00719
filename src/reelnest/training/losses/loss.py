"""What a loss is, and the registry of losses.

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
    """From one process's vectors to a loss for each dim, with the items of all processes as negatives.

    What a loss learns is an ordinary parameter of it, with at least one dimension, since sharded training takes no scalars. It trains with
    the encoder's. In `forward` such a parameter has its whole value, even where it is sharded at other times.
    """

    def __init__(self, settings: LossSettings, dims: Sequence[int]) -> None:
        """`dims` are the prefixes' lengths, rising."""
        super().__init__()
        self.settings = settings
        self.dims = tuple(dims)

    @abstractmethod
    def forward(self, vectors: Tensor, batch: PairBatch) -> Tensor:
        """Losses (dims,) of this process's share of the batch.

        `vectors` (entries, width) are those of the share's queries, targets and extra negatives, in this order, not normalised. The mean
        of the losses over processes has to be the loss of the whole batch, and its gradient the mean over processes of each one's
        gradient. `gather.gather_batch` brings the other processes' vectors so that both hold.
        """

    @property
    def temperature(self) -> Tensor:
        """What cosines are divided by, (1,), for the training's report. 1 for a loss that has none."""
        return torch.ones(1)

    def limit_parameters(self) -> None:
        """Puts what was learnt back into its range. Called after each optimizer step, without gradient."""


L = TypeVar("L", bound=Loss)

_registered: dict[type[LossSettings], type[Loss]] = {}


def register_loss(settings: type[LossSettings]) -> Callable[[type[L]], type[L]]:
    """Says that the decorated class is the loss of which `settings` are the settings."""

    def register(loss: type[L]) -> type[L]:
        _registered[settings] = loss
        return loss

    return register


def registered_loss(settings: LossSettings) -> type[Loss]:
    """The class that was registered for the class of `settings`. Raises ConfigError where there is none."""
    if type(settings) not in _registered:
        known = ", ".join(sorted(known.model_fields["name"].default for known in _registered))
        raise ConfigError(
            f"loss.name: {settings.name} has settings ({type(settings).__name__}), but no loss is registered for them; known: {known}."
            " See docs/extending.md."
        )
    return _registered[type(settings)]
