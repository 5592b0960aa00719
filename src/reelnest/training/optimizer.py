"""The optimizers and their learning rate."""

from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from reelnest.config import Train

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


class MuonWithAdamW(Optimizer):
    """torch's Muon for weight matrices and its AdamW for all else, as one optimizer: one scaler, one scheduler, one state.

    Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) steps along the nearest orthogonal matrix to the momentum. Its steps are
    scaled to AdamW's typical size (Liu et al. 2025, https://arxiv.org/abs/2502.16982), so that one learning rate fits both.
    """

    def __init__(self, matrices: list[dict[str, Any]], others: list[dict[str, Any]], learning_rate: float) -> None:
        self._parts: list[Optimizer] = []
        if matrices:
            self._parts.append(Muon(matrices, lr=learning_rate, adjust_lr_fn="match_rms_adamw"))
        if others:
            self._parts.append(AdamW(others, lr=learning_rate))
        super().__init__([group for part in self._parts for group in part.param_groups], defaults={})
        self._share()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # torch's overloads of it
        """One step of both."""
        if closure is not None:
            raise ValueError("MuonWithAdamW takes no closure")
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Groups and state are this object's; the parts work on them."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state


def build_optimizer(model: nn.Module, train: Train) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101) or Muon over what is trainable.

    Weights of norms, biases and the temperature do not decay: pulling a scale or an offset to zero regularises nothing. Muon is for
    matrices that map vectors to vectors: embeddings and the patch convolution are AdamW's.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    flat = {"params": [parameter for parameter in trainable if parameter.ndim < 2], "weight_decay": 0.0}
    if train.optimizer == "adamw":
        decaying = {"params": [parameter for parameter in trainable if parameter.ndim >= 2], "weight_decay": train.weight_decay}
        return AdamW(_filled(decaying, flat), lr=train.learning_rate)
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices = [parameter for parameter in trainable if parameter.ndim == 2 and parameter not in tables]
    other = [parameter for parameter in trainable if parameter.ndim > 2 or parameter in tables]
    decays = {"weight_decay": train.weight_decay}
    return MuonWithAdamW(_filled({"params": matrices, **decays}), _filled({"params": other, **decays}, flat), train.learning_rate)


def build_scheduler(optimizer: Optimizer, train: Train, steps: int) -> LRScheduler:
    """The learning rate over `steps` optimizer steps: a rise over `warmup_fraction` of them, then the schedule's fall, or none."""
    return get_scheduler(
        SCHEDULES[train.schedule], optimizer, num_warmup_steps=round(train.warmup_fraction * steps), num_training_steps=steps
    )


def _filled(*groups: dict[str, Any]) -> list[dict[str, Any]]:
    return [group for group in groups if group["params"]]
