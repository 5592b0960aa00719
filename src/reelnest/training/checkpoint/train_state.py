"""The training state besides weights and optimizer."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

from reelnest.training.checkpoint.best import Best


@dataclass
class Validation:
    """One evaluation of the validation split."""

    epoch: int
    step: int
    metrics: dict[str, dict[str, float]]
    """By dim, then by name, over the queries of all pair kinds."""


@dataclass
class TrainState:
    """The progress of a training. Only this object holds the micro-batch size."""

    step: int = 0
    """Completed optimizer steps."""
    best: Best = field(default_factory=Best)
    validations: list[Validation] = field(default_factory=list)
    seconds: float = 0.0
    """Of steps and evaluations, in all processes that resumed this training."""
    micro_batch_size: int | None = None
    """Pairs that each process embeds at once; None for all. `train.adaptive_batch_size` may reduce it below the setting."""

    def saved(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return asdict(self)

    @classmethod
    def loaded(cls, saved: dict[str, Any]) -> Self:
        """Restores the result of `saved`."""
        validations = [Validation(**validation) for validation in saved["validations"]]
        return cls(**(saved | {"best": Best(**saved["best"]), "validations": validations}))
