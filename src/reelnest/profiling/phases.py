"""The current phase of a training step: data, vision, language, loss, communication, optimizer or other.

The profiler measures time by phase, and the memory prediction counts bytes by phase. Hooks on the vision tower and the language model mark
the phases of the forward pass. In the backward pass, a hook on the gradient of a module's output marks the start of its backward pass.
Without a watcher there are no hooks, and a phase costs one comparison.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, TypeVar, get_args

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from reelnest.encoder.encoder import Encoder

Phase = Literal["data", "vision", "language", "loss", "communication", "optimizer", "other"]
PHASES: tuple[Phase, ...] = get_args(Phase)
Watch = Callable[[Phase], None]
T = TypeVar("T")

# Global, as torch's profiler is, because on a GPU the backward pass runs in a thread of torch.
_watch: Watch | None = None
_now: Phase = "other"


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """Marks the block as the phase `name`. The previous phase continues afterwards."""
    if _watch is None:
        yield
        return
    before = _now
    _enter(name)
    try:
        yield
    finally:
        _enter(before)


def waiting(items: Iterable[T]) -> Iterator[T]:
    """Yields the items. The wait for each one counts as the phase "data"."""
    iterator = iter(items)
    while True:
        with phase("data"):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


class EncodingModel(Protocol):
    """A model that contains an encoder."""

    encoder: Encoder

    def parameters(self) -> Iterator[nn.Parameter]:
        """Returns the same as `torch.nn.Module.parameters`."""


@contextmanager
def watched(model: EncodingModel, watch: Watch) -> Iterator[None]:
    """Calls `watch` at the start of each phase. `model` is the trained model, not its DDP wrapper."""
    global _watch, _now
    encoder = model.encoder
    vision, language = encoder.vision_tower, encoder.language_model
    # Embedding, pooling and projection in the encoder count as language. After the encoder follows the loss.
    handles = [*_hooks(encoder, "language", "loss"), *_hooks(vision, "vision", "language"), *_hooks(language, "language", "language")]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    handles += _hooks_at_the_end_of_backward(trainable)
    _watch, _now = watch, "other"
    watch("other")
    try:
        yield
    finally:
        _watch = None
        for handle in handles:
            handle.remove()


def _enter(name: Phase) -> None:
    global _now
    _now = name
    if _watch is not None:
        _watch(name)


def _hooks(module: nn.Module, inside: Phase, after: Phase) -> list[RemovableHandle]:
    def begin(_module: nn.Module, _inputs: object) -> None:
        _enter(inside)

    def end(_module: nn.Module, _inputs: object, output: object) -> None:
        _enter(after)
        tensor = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
        tensor = tensor if tensor is not None else getattr(output, "last_hidden_state", None)
        if tensor is not None and tensor.requires_grad:
            tensor.register_hook(lambda _gradient: _enter(inside))

    return [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]


def _hooks_at_the_end_of_backward(trainable: Sequence[Tensor]) -> list[RemovableHandle]:
    """Once all gradients are computed, the rest of the backward pass is communication with the other processes."""
    arrived = 0

    def count(_parameter: Tensor) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == len(trainable):
            arrived = 0
            _enter("communication")

    return [parameter.register_post_accumulate_grad_hook(count) for parameter in trainable]
