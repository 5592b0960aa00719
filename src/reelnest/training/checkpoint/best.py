"""Selects the evaluation with the best weights, and decides when to stop early."""

from dataclasses import dataclass

from reelnest.evaluation.metrics import METRICS


@dataclass(frozen=True)
class Best:
    """The evaluation whose weights become the candidate."""

    step: int = 0
    value: float | None = None
    """`train.best_metric` at `train.best_dim`; None without a validation split, where the last weights are the best."""
    stale: int = 0
    """Evaluations since the last improvement."""

    def after(self, step: int, value: float | None, metric: str) -> "Best":
        """Returns the best evaluation after the one at `step` measured `value`.

        Of equal values the later one is best: when the metric is saturated, longer training may still improve others. But an equal value
        is not an improvement, so a saturated training stops.
        """
        if value is None or self.value is None:
            return Best(step, value)
        if value == self.value:
            return Best(step, value, self.stale + 1)
        is_better = value < self.value if METRICS[metric].lower_is_better else value > self.value
        return Best(step, value) if is_better else Best(self.step, self.value, self.stale + 1)

    def is_final(self, patience: int | None) -> bool:
        """Returns whether `train.patience` is exhausted."""
        return patience is not None and self.stale >= patience
