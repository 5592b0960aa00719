"""Whether a training fits a card, and which settings changes make it fit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from transformers import PreTrainedConfig

from reelnest.settings import Params
from reelnest.training.memory_prediction.step_memory import StepMemory, estimate_step
from reelnest.training.memory_prediction.step_shapes import Sizes

GIB = 1 << 30
RESERVED = GIB * 3 // 4
"""Bytes of a card that are not for tensors: the CUDA context, kernel workspaces, the allocator's rounding. An estimate for a 3B model on
one card; measure it with `torch.cuda.mem_get_info`."""
CARDS = (8, 12, 16, 24, 40, 48, 80, 141, 192)
"""Memory of available cards, GiB."""


@dataclass(frozen=True)
class Fit:
    """Whether a step fits a card, with some settings changes."""

    settings: tuple[str, ...]
    """The settings changes, as in params.yaml; empty for unchanged settings."""
    memory: StepMemory
    fits: bool
    micro_batch_size: int | None
    """The largest that fits, in pairs; None if none fits."""
    frames: int | None
    """The most that fit with a micro-batch of one pair; None if none fit."""


def fit(
    params: Params,
    config: PreTrainedConfig,
    sizes: Sizes,
    gib: float,
    *,
    processes: int = 1,
    predict: Callable[..., StepMemory] = estimate_step,
) -> list[Fit]:
    """Tries the settings on a card of `gib` GiB, first unchanged, then with one more change each time, until they fit.

    The last result fits, unless none does. The cheapest changes come first; only 4-bit weights, the last one, change what a step computes.
    `predict` replaces `estimate_step`.
    """
    tried = []
    for settings, changed in _changes(params):
        peak = _peaks(changed, config, sizes, processes, predict)
        memory = peak(_share(changed, processes), sizes.grid[0])
        fits = memory.peak <= _budget(gib)
        largest = _largest(lambda pairs, peak=peak: peak(pairs, sizes.grid[0]).peak, _share(params, processes), _budget(gib))  # type: ignore[misc]  # a default binds it
        tried.append(Fit(settings, memory, fits, largest, None))
        if fits:
            break
    best = tried[-1]
    if best.micro_batch_size:
        changed = list(_changes(params))[len(tried) - 1][1]
        peak = _peaks(changed, config, sizes, processes, predict)
        steps = _largest(lambda steps: peak(1, steps).peak, 384, _budget(gib))
        tried[-1] = Fit(best.settings, best.memory, best.fits, best.micro_batch_size, None if steps is None else 2 * steps)
    return tried


def smallest_card(memory: StepMemory) -> int | None:
    """Returns the GiB of the smallest card that fits; None if no card is large enough."""
    return next((card for card in CARDS if memory.peak <= _budget(card)), None)


def _budget(gib: float) -> float:
    return gib * GIB - RESERVED


def _share(params: Params, processes: int) -> int:
    share = params.train.batch_size // processes
    return min(params.train.micro_batch_size or share, share)


def _peaks(
    params: Params, config: PreTrainedConfig, sizes: Sizes, processes: int, predict: Callable[..., StepMemory]
) -> Callable[[int, int], StepMemory]:
    """Returns a function from the pairs of a micro-batch and the temporal steps of a video to the memory of a step."""

    @cache
    def peak(pairs: int, steps: int) -> StepMemory:
        share = params.train.batch_size // processes
        changed = _with(params, train={"micro_batch_size": pairs if pairs < share else None})
        return predict(changed, config, Sizes(sizes.text_tokens, (steps, *sizes.grid[1:])), processes=processes)

    return peak


def _changes(params: Params) -> Iterator[tuple[tuple[str, ...], Params]]:
    """Yields the unchanged settings, then one more change each time."""
    yield (), params
    changes_so_far: list[str] = []
    candidates: list[tuple[str, bool, dict[str, dict[str, Any]]]] = [
        (
            "train.gradient_checkpointing: true",
            not params.train.gradient_checkpointing,
            {"train": {"gradient_checkpointing": True}},
        ),
        ("train.micro_batch_size: 1", params.train.micro_batch_size != 1, {"train": {"micro_batch_size": 1}}),
        (
            "model.load_in_4bit: true (with lora.merge: false)",
            params.model.lora is not None and not params.model.load_in_4bit and params.model.name_or_path != "tiny",
            {"model": {"load_in_4bit": True}},
        ),
    ]
    for text, applies, changes in candidates:
        if applies:
            changes_so_far.append(text)
            params = _with(params, **changes)
            yield tuple(changes_so_far), params


def _with(params: Params, **sections: dict[str, Any]) -> Params:
    return params.model_copy(update={name: getattr(params, name).model_copy(update=changes) for name, changes in sections.items()})


def _largest(peak: Callable[[int], int], most: int, budget: float) -> int | None:
    """Returns the largest count up to `most` with a peak within the budget; None if 1 exceeds it.

    Memory is nearly linear in both counts, so the search extrapolates a line through two points and repeats from there.
    """
    at_one = peak(1)
    if at_one > budget:
        return None
    if most == 1:
        return 1
    count, reached = 2, peak(2)
    if reached > budget:
        return 1
    while True:
        before, count = count, int(min(most, 1 + (budget - at_one) * (count - 1) // max(1, reached - at_one)))
        if count == before:
            return count
        reached = peak(count)
        if reached <= budget:
            return count
