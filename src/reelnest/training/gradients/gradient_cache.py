"""Computes a batch's vectors, and the parameters' gradients from those of the vectors, in one of two ways.

`OneGraph` is for a batch that is embedded at once. `GradientCache` is for contrastive batches that exceed memory. A contrastive loss needs
the vectors of the whole batch at once, but only the vectors. So:

1. Embed each micro-batch without a graph; store its vectors, and the state of the random generators before it.
2. Compute the loss of all vectors and each vector's gradient.
3. Embed each micro-batch again, with a graph and with the same random numbers, so that dropout is the same. Propagate its vectors'
   gradients back through the model.

The gradients are those of the whole batch (Gao et al. 2021, https://arxiv.org/abs/2101.06983). Memory is that of one micro-batch and all
vectors; the second forward pass takes about a third more time.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from reelnest.encoder.batches import Batch

Output = tuple[Tensor, dict[str, Tensor]]
"""The output of a ContrastiveModel: vectors (entries, width), and the objective's parameters by name."""
RandomState = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class ModelCalls:
    """How to call a model and run its backward pass, alone or with other processes."""

    model: nn.Module
    """The model, possibly wrapped in DDP. It gets one micro-batch on `device` at a time and returns an `Output`."""
    device: torch.device
    backward: Callable[[Tensor], None] = Tensor.backward
    """Runs backward from a scalar (accelerate's version scales it under fp16)."""
    unsynced: Callable[[], AbstractContextManager[None]] = nullcontext
    """A context without synchronisation of gradients between processes."""
    guard: Callable[[], AbstractContextManager[None]] = nullcontext
    """A context around all forward passes and, again, around all backward passes, but not around the loss."""

    def __call__(self, batch: Batch) -> Output:
        """Returns the model's output for a micro-batch."""
        output: Output = self.model(batch.to(self.device))
        return output

    def syncing(self, synchronise: bool) -> AbstractContextManager[None]:
        """Returns a context that synchronises gradients between processes if `synchronise` is set."""
        return nullcontext() if synchronise else self.unsynced()

    def propagate(self, output: Output, gradients: Output) -> None:
        """Adds the parameters' gradients, given the gradients of a forward pass's outputs."""
        (vectors, learnt), (of_vectors, of_learnt) = output, gradients
        # Backward from this scalar gives the outputs these gradients. It includes all outputs, since FSDP waits for all parameters.
        scalar = (vectors * of_vectors).sum()
        for name, value in learnt.items():
            scalar = scalar + (value * of_learnt[name]).sum()
        self.backward(scalar)


@dataclass
class Embedded:
    """A batch's vectors and the objective's parameters, as leaves for the gradients of the loss."""

    vectors: Tensor
    """(entries, width), concatenated over micro-batches."""
    learnt: dict[str, Tensor]
    graph: Output | None = None
    """The outputs with the model's graph; None if it was not stored."""
    sizes: list[int] = field(default_factory=list)
    """Entries of each micro-batch, without a stored graph."""
    random_states: list[RandomState] = field(default_factory=list)
    """The states before each micro-batch."""

    @property
    def gradients(self) -> Output:
        """The gradients of the leaves."""
        return _gradient(self.vectors), {name: _gradient(value) for name, value in self.learnt.items()}


class Passes(Protocol):
    """Computes vectors from micro-batches, and the parameters' gradients from the vectors' gradients."""

    def embed(self, inputs: Sequence[Batch], *, synchronise: bool) -> Embedded:
        """Returns the vectors of all micro-batches."""

    def backward(self, inputs: Sequence[Batch], embedded: Embedded, *, synchronise: bool) -> None:
        """Adds the parameters' gradients, after a loss ran backward to `embedded`.

        With `synchronise`, the last backward pass sums them over processes. Pass the same value to `embed`.
        """


class OneGraph:
    """For one micro-batch: stores its graph between the forward and the backward pass."""

    def __init__(self, calls: ModelCalls) -> None:
        self._calls = calls

    def embed(self, inputs: Sequence[Batch], *, synchronise: bool) -> Embedded:
        """Returns the vectors of the one micro-batch."""
        [batch] = inputs
        with self._calls.guard(), self._calls.syncing(synchronise):
            vectors, learnt = self._calls(batch)
        return Embedded(_leaf(vectors), _leaves(learnt), graph=(vectors, learnt))

    def backward(self, inputs: Sequence[Batch], embedded: Embedded, *, synchronise: bool) -> None:  # noqa: ARG002 (part of the protocol)
        """Runs backward through the graph and frees it."""
        if embedded.graph is None:
            raise ValueError("this batch was embedded without a graph, or its backward pass already ran")
        graph, embedded.graph = embedded.graph, None
        with self._calls.guard(), self._calls.syncing(synchronise):
            self._calls.propagate(graph, embedded.gradients)


class GradientCache:
    """For any number of micro-batches, each embedded twice."""

    def __init__(self, calls: ModelCalls) -> None:
        self._calls = calls

    def embed(self, inputs: Sequence[Batch], *, synchronise: bool) -> Embedded:  # noqa: ARG002 (part of the protocol)
        """Returns the vectors of all micro-batches, without the model's graph."""
        states, vectors = [], []
        with self._calls.guard(), self._calls.unsynced(), torch.no_grad():
            for batch in inputs:
                states.append(_random_state(self._calls.device))
                of_batch, learnt = self._calls(batch)
                vectors.append(of_batch)
        sizes = [len(of_batch) for of_batch in vectors]
        return Embedded(_leaf(torch.cat(vectors)), _leaves(learnt), sizes=sizes, random_states=states)

    def backward(self, inputs: Sequence[Batch], embedded: Embedded, *, synchronise: bool) -> None:
        """Embeds each micro-batch again and runs backward through it."""
        of_vectors, of_learnt = embedded.gradients
        zeros = {name: torch.zeros_like(gradient) for name, gradient in of_learnt.items()}
        last = len(inputs) - 1
        with self._calls.guard():
            for index, rows in enumerate(of_vectors.split(embedded.sizes)):
                with self._calls.syncing(synchronise and index == last):
                    _restore_random_state(embedded.random_states[index], self._calls.device)
                    # The objective's parameters are the same in each pass: only the last one adds their gradient.
                    self._calls.propagate(self._calls(inputs[index]), (rows, of_learnt if index == last else zeros))


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_()


def _leaves(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: _leaf(value) for name, value in values.items()}


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _random_state(device: torch.device) -> RandomState:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore_random_state(state: RandomState, device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
