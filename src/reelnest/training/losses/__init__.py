"""Contrastive losses over nested dims.

In: vectors of a batch's queries, targets and extra negatives, and the batch, which says what is related. Out: a loss for each dim. Open
`loss.py` first: what a loss is, and how one is registered. Each further loss is a file of its own here; `nested_infonce.py` is the first,
and `prefix_logsumexp.py` holds its arithmetic. `objective.py` makes one number of the losses of all dims.
"""

import importlib
import pkgutil
from collections.abc import Sequence

from reelnest.settings import LossSettings
from reelnest.training.losses.loss import Loss, registered_loss


def make_loss(settings: LossSettings, dims: Sequence[int]) -> Loss:
    """The loss that `loss.name` chooses. Raises ConfigError where no loss is registered for its settings."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)  # a file that holds a loss registers it
    return registered_loss(settings)(settings, dims)
