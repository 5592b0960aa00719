"""`reports/training.json`: the inputs and the result of a training, and its metrics on the validation split."""

from typing import ClassVar

from reelnest.artifacts.artifact import Artifact, FrozenModel


class Parameters(FrozenModel):
    """The numbers of parameters of the model."""

    total: int
    trainable: int


class BestEvaluation(FrozenModel):
    """The evaluation whose weights became the candidate."""

    step: int
    metric: str
    dim: int
    value: float | None
    """None without a validation split."""


class ValidationMetrics(FrozenModel):
    """One evaluation of the validation split."""

    epoch: int
    step: int
    metrics: dict[str, dict[str, float]]
    """Metrics over all queries, by dim and name."""


class StepBreakdown(FrozenModel):
    """The time of the profiled steps, by phase."""

    steps: tuple[int, int]
    """The first and the last step."""
    seconds_per_step: float
    seconds: dict[str, float]
    share: dict[str, float]


class Speed(FrozenModel):
    """The speed of the training."""

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
        """The validation metrics of the selected weights at the dim that selected them. Empty without a validation split."""
        chosen = (evaluation.metrics[str(self.best.dim)] for evaluation in self.validation if evaluation.step == self.best.step)
        return next(chosen, {})
