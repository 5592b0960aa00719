"""What a training step is doing at each moment: data, vision, language, loss, communication, optimizer or something else.

The profiler times these and the memory prediction counts bytes by them. Forward passes are told apart by hooks on the vision tower and the
language model; the backward pass has no modules, so there a hook on the gradient that arrives at a module's output says that its backward
pass begins. Nothing is hooked, and a phase costs a comparison, unless somebody watches.
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

# One for the process, as torch's own profiler: on a GPU the backward pass runs in a thread of torch's.
_watch: Watch | None = None
_now: Phase = "other"


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """Marks what this part of a step is; the one before goes on afterwards."""
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
    """The same items; the time that each one takes to come is the phase "data"."""
    iterator = iter(items)
    while True:
        with phase("data"):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


class EncodingModel(Protocol):
    """A model around an encoder."""

    encoder: Encoder

    def parameters(self) -> Iterator[nn.Parameter]:
        """As torch's."""


@contextmanager
def watched(model: EncodingModel, watch: Watch) -> Iterator[None]:
    """Calls `watch` with each phase as it begins. `model` is the one that trains, not its DDP wrapper."""
    global _watch, _now
    encoder = model.encoder
    vision, language = encoder.vision_tower, encoder.language_model
    # What the encoder does outside the tower (embedding, pooling, projection) counts as language, and what follows it is the loss.
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
    """Once every gradient is there, what is left of a backward pass is waiting for those of the other processes."""
    arrived = 0

    def count(_parameter: Tensor) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == len(trainable):
            arrived = 0
            _enter("communication")

    return [parameter.register_post_accumulate_grad_hook(count) for parameter in trainable]
