"""Which evaluation's weights become the candidate, and when going on is of no use."""

from dataclasses import dataclass

from reelnest.evaluation.metrics import METRICS


@dataclass(frozen=True)
class Best:
    """The evaluation whose weights become the candidate."""

    step: int = 0
    value: float | None = None
    """Of `train.best_metric` at `train.best_dim`; None where there is no validation split, and the last weights count as the best."""
    stale: int = 0
    """Evaluations since the value last became better."""

    def after(self, step: int, value: float | None, metric: str) -> "Best":
        """What is best once the evaluation after `step` found `value`.

        Of equals the later one: a metric that has reached its top says nothing about the rest, which longer training still improves. But
        an equal is no improvement, and so a training that stands still at the top comes to its end.
        """
        if value is None or self.value is None:
            return Best(step, value)
        if value == self.value:
            return Best(step, value, self.stale + 1)
        is_better = value < self.value if METRICS[metric].lower_is_better else value > self.value
        return Best(step, value) if is_better else Best(self.step, self.value, self.stale + 1)

    def is_final(self, patience: int | None) -> bool:
        """Whether `train.patience` is at its end."""
        return patience is not None and self.stale >= patience
