"""Optimizers and learning rate schedules."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from reelnest.settings import Train
from reelnest.training.distributed import OBJECTIVE

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


class MatrixMuon(Muon):
    """torch's Muon, but orthogonalizing in float32 on a CPU.

    torch uses bfloat16. On a CPU without bfloat16 instructions each product takes about 15 times as long, and the sample's training took
    10 times as long.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # torch overloads it
        """Updates all matrices, scaled as with `adjust_lr_fn="match_rms_adamw"`."""
        if closure is not None:
            raise ValueError("MatrixMuon takes no closure")
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonal(matrix.grad.lerp(momentum, group["momentum"]), group)
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonal(matrix: Tensor, settings: dict[str, Any]) -> Tensor:
    """Approximates the nearest orthogonal matrix by the quintic Newton–Schulz iteration of Jordan 2024.

    The singular values of the result are 0.7 to 1.2. `settings` has the `ns_coefficients`, `ns_steps` and `eps` of torch's Muon.
    """
    a, b, c = settings["ns_coefficients"]
    result = matrix.to(torch.float32 if matrix.device.type == "cpu" else torch.bfloat16)
    is_tall = result.shape[0] > result.shape[1]
    result = result.T if is_tall else result
    result = result / result.norm().clamp(min=settings["eps"])
    for _ in range(settings["ns_steps"]):
        gram = result @ result.T
        result = torch.addmm(result, torch.addmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result.T if is_tall else result


class MuonWithAdamW(Optimizer):
    """Muon for weight matrices and torch's AdamW for other parameters, as one optimizer with one scaler, scheduler and state.

    Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) steps along the nearest orthogonal matrix to the momentum. Its steps are
    scaled to AdamW's typical size (Liu et al. 2025, https://arxiv.org/abs/2502.16982), so that one learning rate fits both.
    """

    def __init__(self, matrices: list[dict[str, Any]], for_adamw: list[dict[str, Any]], learning_rate: float, *, fused: bool) -> None:
        """`fused` is AdamW's option."""
        self._optimizers: list[Optimizer] = []
        if matrices:
            self._optimizers.append(MatrixMuon(matrices, lr=learning_rate))
        if for_adamw:
            self._optimizers.append(AdamW(for_adamw, lr=learning_rate, fused=fused))
        super().__init__([group for optimizer in self._optimizers for group in optimizer.param_groups], defaults={})
        self._share()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # torch overloads it
        """Steps both optimizers."""
        if closure is not None:
            raise ValueError("MuonWithAdamW takes no closure")
        for optimizer in self._optimizers:
            optimizer.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state as torch does."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Makes both optimizers use this object's parameter groups and state."""
        groups = iter(self.param_groups)
        for optimizer in self._optimizers:
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]
            optimizer.state = self.state


def build_optimizer(model: nn.Module, train: Train) -> Optimizer:
    """Returns AdamW (Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101) or Muon for the trainable parameters.

    Norm weights, biases and the loss's parameters have no weight decay: shrinking a scale or an offset regularises nothing. Muon updates
    matrices that map vectors to vectors; AdamW updates embeddings, the patch convolution and the loss's parameters.
    """
    # One kernel for all parameters takes a fifth of the time on a CPU. Not with fp16: the fused kernel checks for overflow itself, so
    # accelerate would not see that a step was skipped.
    fused = train.mixed_precision != "fp16"
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    # The loss's are a group of their own: the fused kernel refuses sharded and unsharded parameters together.
    learnt = {"params": [parameter for name, parameter in trainable.items() if _is_of_loss(name)], "weight_decay": 0.0}
    weights = [parameter for name, parameter in trainable.items() if not _is_of_loss(name)]
    flat = {"params": [parameter for parameter in weights if parameter.ndim < 2], "weight_decay": 0.0}
    if train.optimizer == "adamw":
        decaying = {"params": [parameter for parameter in weights if parameter.ndim >= 2], "weight_decay": train.weight_decay}
        return AdamW(_filled(decaying, flat, learnt), lr=train.learning_rate, fused=fused)
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices = [parameter for parameter in weights if parameter.ndim == 2 and parameter not in tables]
    tables_and_kernels = [parameter for parameter in weights if parameter.ndim > 2 or parameter in tables]
    decays = {"weight_decay": train.weight_decay}
    for_adamw = _filled({"params": tables_and_kernels, **decays}, flat, learnt)
    return MuonWithAdamW(_filled({"params": matrices, **decays}), for_adamw, train.learning_rate, fused=fused)


def build_scheduler(optimizer: Optimizer, train: Train, steps: int) -> LRScheduler:
    """Returns the learning rate schedule over `steps` optimizer steps: warm-up over `warmup_fraction` of them, then the decay, if any."""
    return get_scheduler(
        SCHEDULES[train.schedule], optimizer, num_warmup_steps=round(train.warmup_fraction * steps), num_training_steps=steps
    )


def _is_of_loss(name: str) -> bool:
    return name.startswith(f"{OBJECTIVE}.")


def _filled(*groups: dict[str, Any]) -> list[dict[str, Any]]:
    return [group for group in groups if group["params"]]
