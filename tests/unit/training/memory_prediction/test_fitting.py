"""Fitting settings to a card, with a memory model simple enough to check by hand."""

import pytest
from transformers import Qwen2_5_VLConfig

from reelnest.settings import Params
from reelnest.training.memory_prediction.fitting import GIB, RESERVED, fit, smallest_card
from reelnest.training.memory_prediction.step_memory import StepMemory
from reelnest.training.memory_prediction.step_shapes import Sizes

SIZES = Sizes(text_tokens=10, grid=(4, 4, 4))
LORA = {"name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct", "revision": "0" * 40, "lora": {"merge": False}}


def predict(params: Params, config: Qwen2_5_VLConfig, sizes: Sizes, *, processes: int) -> StepMemory:
    """Weights of 4 GiB, or 1 in four bits; a quarter of a GiB per pair and temporal step, an eighth with checkpointing."""
    pairs = params.train.micro_batch_size or params.train.batch_size // processes
    each = GIB // 8 if params.train.gradient_checkpointing else GIB // 4
    return StepMemory({"weights": GIB if params.model.load_in_4bit else 4 * GIB, "activations": pairs * sizes.grid[0] * each})


def settings(model: dict[str, object] | None = None, **train: object) -> Params:
    return Params.model_validate({"model": model or {}, "train": {"batch_size": 8, **train}, "launch": {"config": "cpu-1"}})


def test_settings_that_fit_are_left_as_they_are() -> None:
    [result] = fit(settings(), Qwen2_5_VLConfig(), SIZES, 16, predict=predict)
    assert result.fits
    assert result.settings == ()
    assert result.memory.peak == 12 * GIB
    assert result.micro_batch_size == 8
    # 16 - 0.75 - 4 GiB hold 45 steps of a quarter.
    assert result.frames == 2 * 45


def test_what_does_not_fit_is_changed_step_by_step_until_it_does() -> None:
    fits = fit(settings(), Qwen2_5_VLConfig(), SIZES, 5.5, predict=predict)
    assert [result.settings for result in fits] == [
        (),
        ("train.gradient_checkpointing: true",),
        ("train.gradient_checkpointing: true", "train.micro_batch_size: 1"),
    ]
    assert [result.fits for result in fits] == [False, False, True]
    assert [result.micro_batch_size for result in fits] == [None, 1, 1]


def test_four_bits_come_last_and_only_for_adapters() -> None:
    fits = fit(settings(LORA), Qwen2_5_VLConfig(), SIZES, 3, predict=predict)
    assert fits[-1].fits
    assert fits[-1].settings[-1].startswith("model.load_in_4bit: true")
    assert not fit(settings(), Qwen2_5_VLConfig(), SIZES, 3, predict=predict)[-1].fits


def test_each_process_holds_its_share_of_the_batch() -> None:
    [result] = fit(settings(), Qwen2_5_VLConfig(), SIZES, 9, processes=2, predict=predict)
    assert result.memory.peak == 8 * GIB
    assert result.micro_batch_size == 4


@pytest.mark.parametrize(("gib", "card"), [(1, 8), (7.25, 8), (7.3, 12), (70, 80), (1000, None)])
def test_the_smallest_card_leaves_room_for_what_is_no_tensor(gib: float, card: int | None) -> None:
    assert smallest_card(StepMemory({"weights": int(gib * GIB)})) == card
    assert card is None or gib * GIB + RESERVED <= card * GIB
