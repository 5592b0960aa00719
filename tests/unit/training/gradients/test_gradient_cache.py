"""Cached gradients compared with those of one graph over the whole batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.encoder.batches import Batch, Batcher, MicroBatches
from reelnest.encoder.encoder import load_encoder
from reelnest.settings import Model, NestedInfoNceSettings
from reelnest.store.entries import Entry
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.gradients.gradient_cache import GradientCache, ModelCalls, OneGraph, Passes
from tests.support.model_inputs import random_video

CPU = torch.device("cpu")


def entries(count: int = 10) -> list[Entry]:
    texts = [Entry("query", "a red circle " * (1 + number % 4), None) for number in range(count // 2)]
    videos = [Entry("target", "a star " * (number % 2), random_video(number, (1 + number % 3, 4, 4))) for number in range(count // 2)]
    return [entry for pair in zip(texts, videos, strict=True) for entry in pair]


def model_of(base: Path, **settings: Any) -> tuple[ContrastiveModel, Batcher]:
    torch.manual_seed(1)
    chosen = Model.model_validate(settings)
    encoder, tokenizer = load_encoder(chosen, base, training=True)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return ContrastiveModel(encoder, NestedInfoNceSettings(learn_temperature=True), chosen.dims), Batcher(tokenizer, chosen, FAMILY)


def loss_of(vectors: Tensor, learnt: dict[str, Tensor], inverse: Tensor) -> Tensor:
    """A loss in which each vector's gradient depends on all vectors, and the temperature takes part."""
    unit = nn.functional.normalize(vectors[inverse], dim=1)
    return ((unit @ unit.T) * torch.exp(learnt["loss.log_scale"])).logsumexp(1).mean()


def run(calls: ModelCalls, inputs: Sequence[Batch], inverse: Tensor, *, synchronise: bool = True) -> Tensor:
    """Adds the gradients of `loss_of` to the parameters, as training does for this number of micro-batches."""
    passes: Passes = OneGraph(calls) if len(inputs) == 1 else GradientCache(calls)
    embedded = passes.embed(inputs, synchronise=synchronise)
    loss = loss_of(embedded.vectors, embedded.learnt, inverse)
    loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's backward has no types
    passes.backward(inputs, embedded, synchronise=synchronise)
    return loss.detach()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    results = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return results


def assert_alike(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        if value.any():
            error = float((actual[name] - value).abs().max())
            assert error <= 1e-5 * max(float(value.abs().max()), 0.01 * largest), (name, error)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_gradients_equal_those_of_the_whole_batch(tiny_base: Path, count: int) -> None:
    model, batcher = model_of(tiny_base)
    expected_loss = loss_of(*model(batcher(entries())), torch.arange(10))
    expected_loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's backward has no types
    expected = gradients(model)
    inputs, inverse = batcher.micro_batches(entries(), count)
    loss = run(ModelCalls(model, CPU), inputs, inverse)
    torch.testing.assert_close(loss, expected_loss.detach(), rtol=1e-6, atol=0)
    actual = gradients(model)
    assert actual["objective.loss.log_scale"].abs() > 0
    assert_alike(actual, expected)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_drops_the_same_in_both_passes(tiny_base: Path, checkpointing: bool) -> None:
    model, batcher = model_of(tiny_base, lora={"r": 4, "dropout": 0.5, "vision": True})
    if checkpointing:
        model.encoder.enable_gradient_checkpointing()
    inputs, inverse = batcher.micro_batches(entries(), 4)
    assert any(all(segment.rows is None for segment in batch.segments) for batch in inputs), (
        "a stand-in has to take part in some micro-batch"
    )
    # One graph over the same micro-batches, with the same random numbers.
    torch.manual_seed(7)
    outputs = [model(batch) for batch in inputs]
    loss_of(torch.cat([vectors for vectors, _ in outputs]), outputs[-1][1], inverse).backward()  # type: ignore[no-untyped-call]  # PyTorch's backward has no types
    expected = gradients(model)

    seen: list[Tensor] = []
    model.encoder.register_forward_hook(lambda _module, _inputs, vectors: seen.append(vectors.detach()))
    torch.manual_seed(7)
    run(ModelCalls(model, CPU), inputs, inverse)
    for index in range(len(inputs)):
        assert torch.equal(seen[index], seen[len(inputs) + index])
        assert torch.equal(seen[index], outputs[index][0].detach())
    assert_alike(gradients(model), expected)


def test_a_batch_of_one_micro_batch_is_embedded_once_and_others_twice(tiny_base: Path) -> None:
    model, batcher = model_of(tiny_base)
    calls: list[bool] = []
    model.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    for count, expected in ((1, [True]), (3, [False] * 3 + [True] * 3)):
        inputs, inverse = batcher.micro_batches(entries(), count)
        calls.clear()
        run(ModelCalls(model, CPU), inputs, inverse)
        assert calls == expected


def test_a_scaler_scales_what_goes_backward_through_the_model(tiny_base: Path) -> None:
    model, batcher = model_of(tiny_base)
    inputs, inverse = batcher.micro_batches(entries(), 3)
    run(ModelCalls(model, CPU), inputs, inverse)
    plain = gradients(model)
    run(ModelCalls(model, CPU, backward=lambda loss: (loss * 1024).backward()), inputs, inverse)  # type: ignore[no-untyped-call]  # PyTorch's backward has no types
    actual = gradients(model)
    for name, value in plain.items():
        assert torch.equal(actual[name], value * 1024), name


@pytest.mark.parametrize(("synchronise", "expected"), [(True, 1), (False, 0)])
@pytest.mark.parametrize("count", [1, 3])
def test_processes_sum_gradients_once_and_at_the_end(tiny_base: Path, synchronise: bool, expected: int, count: int) -> None:
    model, batcher = model_of(tiny_base)
    inside: list[bool] = [False]
    synced: list[bool] = []

    class Unsynced:
        def __enter__(self) -> None:
            inside[0] = True

        def __exit__(self, *_: object) -> None:
            inside[0] = False

    def backward(loss: Tensor) -> None:
        synced.append(not inside[0])
        loss.backward()

    inputs, inverse = batcher.micro_batches(entries(), count)
    run(ModelCalls(model, CPU, backward=backward, unsynced=Unsynced), inputs, inverse, synchronise=synchronise)
    assert synced == [False] * (count - expected) + [True] * expected


def test_micro_batches_keep_like_with_like_and_hold_about_equally_many_tokens(tiny_base: Path) -> None:
    _, batcher = model_of(tiny_base)
    batches, inverse = batcher.micro_batches(entries(40), 5)
    tokens = [sum(int(segment.attention_mask.sum()) for segment in batch.segments) for batch in batches]
    assert max(tokens) < 2 * min(tokens)
    assert sum(len(batch.segments) for batch in batches) <= 6  # at most one has both kinds
    layouts = cast("MicroBatches", batches).layouts()
    assert [[segment.attention_mask.tolist() for segment in batch.segments] for batch in layouts] == [
        [segment.attention_mask.tolist() for segment in batch.segments] for batch in batches
    ]
    assert {len(segment.rows) for batch in layouts for segment in batch.segments if segment.rows is not None} == {0}
    assert torch.equal(inverse.sort().values, torch.arange(40))
    rows = []
    for batch in batches:
        sizes = [(int(mask.sum()), segment.rows is not None) for segment in batch.segments for mask in segment.attention_mask]
        rows += [sizes[place] for place in batch.inverse]
    alone = [batcher([entry]).segments[0] for entry in entries(40)]
    assert [rows[place] for place in inverse] == [(int(segment.attention_mask.sum()), segment.rows is not None) for segment in alone]


def test_more_micro_batches_than_entries_are_refused(tiny_base: Path) -> None:
    _, batcher = model_of(tiny_base)
    with pytest.raises(ValueError, match="2 entries do not fill 3 batches"):
        batcher.micro_batches(entries(2), 3)
    assert [len(batch) for batch in batcher.micro_batches(entries(4), 4)[0]] == [1, 1, 1, 1]
