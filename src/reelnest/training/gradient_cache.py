"""Contrastive batches far beyond memory.

A contrastive loss needs the vectors of the whole batch at once, but no more than the vectors. So:

1. Each micro-batch is embedded without a graph; its vectors are kept, and the state of the random generators before it.
2. The loss of all vectors gives each vector's gradient.
3. Each micro-batch is embedded once more, now with a graph and with the random numbers of the first time, so that dropout drops the same,
   and its vectors' gradients go backward through the model.

Gradients are those of the whole batch (Gao et al. 2021, https://arxiv.org/abs/2101.06983); memory is that of one micro-batch and all
vectors, and the second forward costs about a third more time. A batch that is one micro-batch is embedded once.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reelnest.encoder.batches import Batch


class GradientCache:
    """Runs a model's forward and backward passes micro-batch by micro-batch."""

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        *,
        backward: Callable[[Tensor], Any] = Tensor.backward,
        unsynced: Callable[[], AbstractContextManager[Any]] = nullcontext,
        guard: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """`model` is called as training calls it (in DDP, say), with one micro-batch on `device` at a time.

        Args:
            model: gives the vectors (entries, width) and what is the same for each micro-batch, such as the temperature: a tensor, or a
                tuple of them.
            device: of the model.
            backward: what goes backward from a scalar (accelerate's scales it under fp16).
            unsynced: inside it, backward passes leave the processes' gradients apart.
            guard: around all passes forward and, again, around all passes backward; not around the loss.
        """
        self._model = model
        self._device = device
        self._backward = backward
        self._unsynced = unsynced
        self._guard = guard

    def __call__(self, inputs: Sequence[Batch], loss: Callable[..., Tensor], *, synchronise: bool) -> Tensor:
        """Adds the gradients of `loss(vectors, others)` to the parameters; the loss, without graph.

        With `synchronise` the last backward pass sums over processes, and so only once. `loss` may talk to other processes.
        """
        once = len(inputs) == 1
        outputs: list[Any] = []
        states = []
        with self._guard(), nullcontext() if once and synchronise else self._unsynced(), torch.set_grad_enabled(once):
            for batch in inputs:
                states.append(_random_state(self._device))
                outputs.append(self._model(batch.to(self._device)))
        vectors = _leaf(torch.cat([found for found, _ in outputs]))  # (entries, width)
        others = pytree.tree_map_only(Tensor, _leaf, outputs[-1][1])
        value = loss(vectors, others)
        value.backward()
        of_vectors = _gradient(vectors).split([len(found) for found, _ in outputs])
        of_others = [_gradient(other) for other in _tensors(others)]
        with self._guard():
            for index in range(len(inputs)):
                last = index == len(inputs) - 1
                with nullcontext() if last and synchronise else self._unsynced():
                    if not once:
                        _restore_random_state(states[index], self._device)
                        outputs[index] = self._model(inputs[index].to(self._device))
                    # Backward from this scalar gives the vectors their cached gradients.
                    toward = (outputs[index][0] * of_vectors[index]).sum()
                    for other, gradient in zip(_tensors(outputs[index][1]), of_others, strict=True):
                        # All outputs take part each time, since FSDP waits for all parameters.
                        toward = toward + (other * (gradient if last else 0.0)).sum()
                    outputs[index] = None
                    self._backward(toward)
        return value.detach()


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_()


def _tensors(outputs: Any) -> list[Tensor]:
    return [found for found in pytree.tree_leaves(outputs) if isinstance(found, Tensor)]


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
