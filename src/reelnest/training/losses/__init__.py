"""Contrastive losses over nested dims.

In: vectors of a batch's queries, targets and extra negatives, and the batch, which marks related items. Out: a loss for each dim. Open
`loss.py` first: it defines and registers losses. Each loss has its own file here; `nested_infonce.py` is the first, and
`prefix_logsumexp.py` has its arithmetic. `objective.py` combines the losses of all dims.
"""

import importlib
import pkgutil
from collections.abc import Sequence

from reelnest.settings import LossSettings
from reelnest.training.losses.loss import Loss, registered_loss


def make_loss(settings: LossSettings, dims: Sequence[int]) -> Loss:
    """Returns the loss that `loss.name` selects. Raises ConfigError if no loss is registered for its settings."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)  # importing a loss's file registers it
    return registered_loss(settings)(settings, dims)
