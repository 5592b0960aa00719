"""The metrics that a training logs, by name."""

from collections.abc import Mapping, Sequence

import numpy as np
import psutil
import torch

from reelnest.evaluation.metrics import logged_name
from reelnest.training.checkpoint.history import StepRow
from reelnest.training.checkpoint.train_state import Validation

MEBIBYTE = 1 << 20


def step_figures(rows: Sequence[StepRow], dims: Sequence[int], learnt_weights: Sequence[float] | None) -> dict[str, float]:
    """Returns metrics of several steps: mean losses and gradient norms, else the last step's values. `learnt_weights` are per dim."""
    figures = {
        "train/loss": float(np.mean([row.loss for row in rows])),
        **{f"train/loss_{dim}": float(np.mean([row.losses[i] for row in rows])) for i, dim in enumerate(dims)},
        "train/learning_rate": rows[-1].learning_rate,
        "train/gradient_norm": float(np.mean([row.gradient_norm for row in rows])),
        "train/temperature": rows[-1].temperature,
    }
    if learnt_weights is not None:
        figures |= {f"train/weight_{dim}": weight for dim, weight in zip(dims, learnt_weights, strict=True)}
    return figures


def resumed_step_figures(row: StepRow) -> dict[str, float]:
    """Returns the metrics of a step of an earlier process."""
    return {"train/loss": row.loss, "train/learning_rate": row.learning_rate}


def validation_figures(validation: Validation) -> Mapping[str, float]:
    """Returns the metrics of an evaluation of the validation split."""
    return {validation_metric(name, dim): value for dim, metrics in validation.metrics.items() for name, value in metrics.items()}


def validation_metric(name: str, dim: str) -> str:
    """Returns a metric's name for the trackers."""
    return f"validation/{logged_name(name)}/dim_{dim}"


def memory_figures() -> dict[str, float]:
    """Returns the memory metrics of this process."""
    memory = {"memory/rss_mb": psutil.Process().memory_info().rss / MEBIBYTE}
    if torch.cuda.is_available():
        memory["memory/gpu_peak_mb"] = torch.cuda.max_memory_allocated() / MEBIBYTE
    return memory
