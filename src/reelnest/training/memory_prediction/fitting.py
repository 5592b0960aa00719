"""What of a training fits into a card, and what would have to change for more to fit."""

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
"""Bytes of a card that are not for tensors: the CUDA context, kernels' workspaces, the allocator's rounding. About what a 3B model on one
card needs; measure it with `torch.cuda.mem_get_info` where it matters."""
CARDS = (8, 12, 16, 24, 40, 48, 80, 141, 192)
"""Memory of cards that one can rent or buy, GiB."""


@dataclass(frozen=True)
class Fit:
    """Whether a step fits into a card, with some changes to the settings."""

    settings: tuple[str, ...]
    """Changes to the settings that were asked for, as one would write them; none where they fit as they are."""
    memory: StepMemory
    fits: bool
    micro_batch_size: int | None
    """The largest that fits, in pairs; None where nothing does."""
    frames: int | None
    """The most that fit with a micro-batch of one pair; None where nothing does."""


def fit(
    params: Params,
    config: PreTrainedConfig,
    sizes: Sizes,
    gib: float,
    *,
    processes: int = 1,
    predict: Callable[..., StepMemory] = estimate_step,
) -> list[Fit]:
    """Whether the settings fit into a card of `gib` GiB, as they are and, where they do not, with one change after the other.

    The last one fits, unless none does. Changes are those that cost the least first: none of them changes what a step computes,
    until 4-bit weights do. `predict` takes the place of `estimate_step`.
    """
    tried = []
    for settings, changed in _changes(params):
        peak = _peaks(changed, config, sizes, processes, predict)
        memory = peak(_share(changed, processes), sizes.grid[0])
        fits = memory.peak <= _budget(gib)
        largest = _largest(lambda pairs, peak=peak: peak(pairs, sizes.grid[0]).peak, _share(params, processes), _budget(gib))  # type: ignore[misc]
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
    """GiB of the smallest card into which it fits; None where no card is large enough."""
    return next((card for card in CARDS if memory.peak <= _budget(card)), None)


def _budget(gib: float) -> float:
    return gib * GIB - RESERVED


def _share(params: Params, processes: int) -> int:
    share = params.train.batch_size // processes
    return min(params.train.micro_batch_size or share, share)


def _peaks(
    params: Params, config: PreTrainedConfig, sizes: Sizes, processes: int, predict: Callable[..., StepMemory]
) -> Callable[[int, int], StepMemory]:
    """The memory of a step by the micro-batch's pairs and the steps of a video's grid in time."""

    @cache
    def peak(pairs: int, steps: int) -> StepMemory:
        share = params.train.batch_size // processes
        changed = _with(params, train={"micro_batch_size": pairs if pairs < share else None})
        return predict(changed, config, Sizes(sizes.text_tokens, (steps, *sizes.grid[1:])), processes=processes)

    return peak


def _changes(params: Params) -> Iterator[tuple[tuple[str, ...], Params]]:
    """The settings as they are, then with one change more each time."""
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
    """The largest count up to `most` whose peak keeps to the budget; None where 1 does not.

    Memory is all but linear in both counts, so two points show about where the budget ends, and a line to there shows it better.
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
