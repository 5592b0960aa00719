"""`reports/training.json`: what a training ran on, how it ended, and what each evaluation of the validation split gave."""

from typing import ClassVar

from reelnest.artifacts.artifact import Artifact, Part


class Parameters(Part):
    """How many numbers the model has."""

    total: int
    trainable: int


class BestEvaluation(Part):
    """The evaluation whose weights became the candidate."""

    step: int
    metric: str
    dim: int
    value: float | None
    """None where there was no validation split."""


class ValidationMetrics(Part):
    """One evaluation of the validation split."""

    epoch: int
    step: int
    metrics: dict[str, dict[str, float]]
    """By dim, then by name, over the queries of all pair kinds."""


class StepBreakdown(Part):
    """The time of the profiled steps, by phase."""

    steps: tuple[int, int]
    """The first and the last."""
    seconds_per_step: float
    seconds: dict[str, float]
    share: dict[str, float]


class Speed(Part):
    """How fast the training was."""

    pairs_per_second: float
    seconds: float
    while_stepping: dict[str, float]
    """Rates without evaluations and checkpoints, by name."""
    breakdown: StepBreakdown | None


class TrainingReport(Artifact):
    """The report of `reelnest train`."""

    FILE: ClassVar[str] = "training.json"
    COMMAND: ClassVar[str] = "reelnest train"

    pairs: int
    batch_size: int
    processes: int
    epochs: int
    steps: int
    seed: int
    parameters: Parameters
    loss: float
    loss_by_dim: dict[str, float]
    temperature: float
    best: BestEvaluation
    stopped_early: bool
    validation: tuple[ValidationMetrics, ...]
    speed: Speed

    @property
    def best_metrics(self) -> dict[str, float]:
        """The validation split's metrics of the chosen weights, at the dim at which they were chosen; empty without such a split."""
        chosen = (evaluation.metrics[str(self.best.dim)] for evaluation in self.validation if evaluation.step == self.best.step)
        return next(chosen, {})
