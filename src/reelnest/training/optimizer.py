"""AdamW and its learning rate."""

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from reelnest.config import Train

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def build_optimizer(model: nn.Module, train: Train) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101) over what is trainable.

    Weights of norms, biases and the temperature do not decay: pulling a scale or an offset to zero regularises nothing.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=train.learning_rate)


def build_scheduler(optimizer: Optimizer, train: Train, steps: int) -> LRScheduler:
    """The learning rate over `steps` optimizer steps: a rise over `warmup_fraction` of them, then the schedule's fall, or none."""
    return get_scheduler(
        SCHEDULES[train.schedule], optimizer, num_warmup_steps=round(train.warmup_fraction * steps), num_training_steps=steps
    )
