"""From a batch to its vectors, and from the gradients of the vectors to those of the parameters, in one of two ways.

`OneGraph` is for a batch that is embedded at once. `GradientCache` is for contrastive batches far beyond memory. A contrastive loss needs
the vectors of the whole batch at once, but no more than the vectors. So:

1. Each micro-batch is embedded without a graph; its vectors are kept, and the state of the random generators before it.
2. The loss of all vectors gives each vector's gradient.
3. Each micro-batch is embedded once more, now with a graph and with the random numbers of the first time, so that dropout drops the same,
   and its vectors' gradients go backward through the model.

Gradients are those of the whole batch (Gao et al. 2021, https://arxiv.org/abs/2101.06983); memory is that of one micro-batch and all
vectors, and the second forward costs about a third more time.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from reelnest.encoder.batches import Batch

Output = tuple[Tensor, dict[str, Tensor]]
"""What a ContrastiveModel gives: vectors (entries, width), and the parameters of the objective by name."""
RandomState = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class ModelCalls:
    """How a model is called, and how its gradients go backward, where other processes do the same."""

    model: nn.Module
    """Called as training calls it (in DDP, say), with one micro-batch on `device` at a time; gives an `Output`."""
    device: torch.device
    backward: Callable[[Tensor], None] = Tensor.backward
    """Goes backward from a scalar (accelerate's scales it under fp16)."""
    unsynced: Callable[[], AbstractContextManager[None]] = nullcontext
    """Inside it, backward passes leave the processes' gradients apart."""
    guard: Callable[[], AbstractContextManager[None]] = nullcontext
    """Around all passes forward and, again, around all passes backward; not around the loss."""

    def __call__(self, batch: Batch) -> Output:
        """The model's output for a micro-batch."""
        output: Output = self.model(batch.to(self.device))
        return output

    def syncing(self, synchronise: bool) -> AbstractContextManager[None]:
        """Where gradients are summed over processes if `synchronise` says so."""
        return nullcontext() if synchronise else self.unsynced()

    def send_back(self, output: Output, gradients: Output) -> None:
        """Adds the parameters' gradients, given those of a forward pass's outputs."""
        (vectors, learnt), (of_vectors, of_learnt) = output, gradients
        # Backward from this scalar gives the outputs their gradients. All of them take part, since FSDP waits for all parameters.
        scalar = (vectors * of_vectors).sum()
        for name, value in learnt.items():
            scalar = scalar + (value * of_learnt[name]).sum()
        self.backward(scalar)


@dataclass
class Embedded:
    """A batch's vectors and the objective's parameters, as leaves that take the gradients of the loss."""

    vectors: Tensor
    """(entries, width), of one micro-batch after the other."""
    learnt: dict[str, Tensor]
    graph: Output | None = None
    """What they are the leaves of, where the model's graph is kept."""
    sizes: list[int] = field(default_factory=list)
    """Entries of each micro-batch, where it is not."""
    random_states: list[RandomState] = field(default_factory=list)
    """Before each micro-batch."""

    @property
    def gradients(self) -> Output:
        """Those that the loss gave the leaves."""
        return _gradient(self.vectors), {name: _gradient(value) for name, value in self.learnt.items()}


class Passes(Protocol):
    """A way from a batch's micro-batches to vectors, and from the vectors' gradients to the parameters'."""

    def embed(self, inputs: Sequence[Batch], *, synchronise: bool) -> Embedded:
        """The vectors of all micro-batches."""

    def backward(self, inputs: Sequence[Batch], embedded: Embedded, *, synchronise: bool) -> None:
        """Adds the parameters' gradients, once a loss went backward to `embedded`.

        With `synchronise` they are summed over processes, once, with the last backward pass; `embed` has to be given the same.
        """


class OneGraph:
    """For one micro-batch: its graph is kept from the forward to the backward pass."""

    def __init__(self, calls: ModelCalls) -> None:
        self._calls = calls

    def embed(self, inputs: Sequence[Batch], *, synchronise: bool) -> Embedded:
        """The vectors of the one micro-batch."""
        [batch] = inputs
        with self._calls.guard(), self._calls.syncing(synchronise):
            vectors, learnt = self._calls(batch)
        return Embedded(_leaf(vectors), _leaves(learnt), graph=(vectors, learnt))

    def backward(self, inputs: Sequence[Batch], embedded: Embedded, *, synchronise: bool) -> None:  # noqa: ARG002 (of the protocol)
        """Goes backward through the graph, which is freed."""
        if embedded.graph is None:
            raise ValueError("this batch was embedded without a graph, or went backward before")
        graph, embedded.graph = embedded.graph, None
        with self._calls.guard(), self._calls.syncing(synchronise):
            self._calls.send_back(graph, embedded.gradients)


class GradientCache:
    """For any number of micro-batches, each embedded twice."""

    def __init__(self, calls: ModelCalls) -> None:
        self._calls = calls

    def embed(self, inputs: Sequence[Batch], *, synchronise: bool) -> Embedded:  # noqa: ARG002 (of the protocol)
        """The vectors of all micro-batches, without the model's graph."""
        states, vectors = [], []
        with self._calls.guard(), self._calls.unsynced(), torch.no_grad():
            for batch in inputs:
                states.append(_random_state(self._calls.device))
                of_batch, learnt = self._calls(batch)
                vectors.append(of_batch)
        sizes = [len(of_batch) for of_batch in vectors]
        return Embedded(_leaf(torch.cat(vectors)), _leaves(learnt), sizes=sizes, random_states=states)

    def backward(self, inputs: Sequence[Batch], embedded: Embedded, *, synchronise: bool) -> None:
        """Embeds each micro-batch once more, and goes backward through it."""
        of_vectors, of_learnt = embedded.gradients
        nothing = {name: torch.zeros_like(gradient) for name, gradient in of_learnt.items()}
        last = len(inputs) - 1
        with self._calls.guard():
            for index, rows in enumerate(of_vectors.split(embedded.sizes)):
                with self._calls.syncing(synchronise and index == last):
                    _restore_random_state(embedded.random_states[index], self._calls.device)
                    # The objective's parameters are the same in each pass: the last one brings their gradient.
                    self._calls.send_back(self._calls(inputs[index]), (rows, of_learnt if index == last else nothing))


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
