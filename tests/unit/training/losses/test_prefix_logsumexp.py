"""The nested loss compared with a plain loop over dims, finite differences and sentence-transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reelnest.settings import NestedInfoNceSettings
from reelnest.training.losses import prefix_logsumexp
from reelnest.training.losses.gather import GatheredBatch
from reelnest.training.losses.nested_infonce import nested_losses
from reelnest.training.losses.prefix_logsumexp import Pairing, nested_log_sums
from tests.unit.training.losses.plain_loss import plain_losses

DIMS = (3, 5, 11, 20)
OPTIONS: dict[str, dict[str, Any]] = {
    "alone": {},
    "intra_modal": {"intra_modal_negatives": True},
    "margin": {"false_negative_margin": 0.1},
    "no_margin": {"false_negative_margin": 0.0},
    "graded": {"graded_relevance": True},
    "all": {"intra_modal_negatives": True, "false_negative_margin": 0.05, "graded_relevance": True},
}
EXACT = 1e-10


def inputs(pairs: int = 11, extras: int = 5, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """A batch with extra negatives, extra relevant targets, and some similarity within each pair."""
    numbers = torch.Generator().manual_seed(0)
    queries = torch.randn(pairs, DIMS[-1], generator=numbers, dtype=dtype)
    targets = torch.randn(pairs + extras, DIMS[-1], generator=numbers, dtype=dtype)
    targets[:pairs] += queries / 2
    return {
        "queries": queries.requires_grad_(),
        "targets": targets.requires_grad_(),
        "temperature": torch.tensor([0.1], dtype=dtype, requires_grad=True),
        "related": torch.rand(pairs, pairs + extras, generator=numbers) < 0.2,
        "related_queries": torch.rand(pairs, pairs, generator=numbers) < 0.2,
        "related_targets": torch.rand(pairs, pairs, generator=numbers) < 0.2,
        "relevance": torch.rand(pairs, generator=numbers, dtype=dtype) + 0.5,
    }


def nested(batch_inputs: dict[str, Tensor], settings: NestedInfoNceSettings, dims: tuple[int, ...] = DIMS) -> Tensor:
    batch = {name: tensor for name, tensor in batch_inputs.items() if name != "temperature"}
    return nested_losses(GatheredBatch(**batch, rows=slice(0, len(batch_inputs["queries"]))), dims, batch_inputs["temperature"], settings)


def gradients(losses: Tensor, batch_inputs: dict[str, Tensor]) -> list[Tensor]:
    """Returns gradients of the losses with a different weight for each dim."""
    weights = torch.linspace(0.3, 1.7, len(losses), dtype=losses.dtype)
    return list(torch.autograd.grad((losses * weights).sum(), [batch_inputs[name] for name in ("queries", "targets", "temperature")]))


@pytest.mark.parametrize("chunk", [1 << 19, 1], ids=["one_chunk", "many_chunks"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_values_and_gradients_are_the_plain_loops(options: dict[str, Any], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(prefix_logsumexp.BUFFER_NUMBERS, "cpu", chunk)
    monkeypatch.setattr(prefix_logsumexp, "LEAST_CHUNK", 4)
    batch_inputs, settings = inputs(), NestedInfoNceSettings(**options)
    ours, plain = nested(batch_inputs, settings), plain_losses(**batch_inputs, dims=DIMS, settings=settings)
    torch.testing.assert_close(ours, plain, rtol=0, atol=EXACT)
    for mine, expected in zip(gradients(ours, batch_inputs), gradients(plain, batch_inputs), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("options", [OPTIONS["alone"], OPTIONS["all"]], ids=["alone", "all"])
def test_gradients_are_those_of_finite_differences(options: dict[str, Any]) -> None:
    batch_inputs = inputs(pairs=5, extras=2)

    def losses(queries: Tensor, targets: Tensor, temperature: Tensor) -> Tensor:
        return nested(
            batch_inputs | {"queries": queries, "targets": targets, "temperature": temperature},
            NestedInfoNceSettings(**options),
            (2, 5, 20),
        )

    assert torch.autograd.gradcheck(losses, (batch_inputs["queries"], batch_inputs["targets"], batch_inputs["temperature"]))


@pytest.mark.parametrize("option", ["intra_modal", "margin", "graded"])
def test_each_option_changes_the_losses(option: str) -> None:
    assert not torch.allclose(nested(inputs(), NestedInfoNceSettings(**OPTIONS[option])), nested(inputs(), NestedInfoNceSettings()))


def test_single_precision_is_near_and_small_temperatures_do_not_overflow() -> None:
    # Opposite and equal vectors at 0.01: logits of -100 and 100, which overflow exp() in single precision.
    batch_inputs = inputs()
    with torch.no_grad():
        batch_inputs["targets"][3:6] = -batch_inputs["queries"][3:6]
        batch_inputs["targets"][6] = batch_inputs["queries"][2]
        batch_inputs["temperature"].fill_(0.01)
    single = {name: value.detach().float().requires_grad_() if value.is_floating_point() else value for name, value in batch_inputs.items()}
    ours, plain = nested(single, NestedInfoNceSettings()), plain_losses(**batch_inputs, dims=DIMS, settings=NestedInfoNceSettings())
    torch.testing.assert_close(ours.double(), plain, rtol=1e-5, atol=0)
    for mine, expected in zip(gradients(ours, single), gradients(plain, batch_inputs), strict=True):
        torch.testing.assert_close(mine.double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_vectors_of_zeros_have_the_plain_loops_gradients() -> None:
    batch_inputs = inputs()
    with torch.no_grad():
        batch_inputs["queries"][1] = 0  # all prefixes are zero
        batch_inputs["targets"][2, :5] = 0  # two prefixes are zero
        # The small divisor gives gradients of 1e12, which differ in the last digits.
    ours, plain = nested(batch_inputs, NestedInfoNceSettings()), plain_losses(**batch_inputs, dims=DIMS, settings=NestedInfoNceSettings())
    torch.testing.assert_close(ours, plain, rtol=0, atol=EXACT)
    for mine, expected in zip(gradients(ours, batch_inputs), gradients(plain, batch_inputs), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=EXACT)


def test_a_single_pair_without_any_negative_costs_nothing() -> None:
    batch_inputs = inputs(pairs=1, extras=0)
    losses = nested(batch_inputs, NestedInfoNceSettings(intra_modal_negatives=True))
    torch.testing.assert_close(losses, torch.zeros_like(losses), rtol=0, atol=1e-12)
    for gradient in gradients(losses, batch_inputs):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_no_matrix_of_all_similarities_is_allocated() -> None:
    rows, columns = torch.randn(320, 16, requires_grad=True), torch.randn(500, 16)
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        sums, *_ = nested_log_sums(rows, columns, (4, 16), torch.ones(1), Pairing(0, partner_counts=False, paired=500), chunk_rows=64)
    assert max(sizes) <= columns.numel()
    with torch.profiler.profile(profile_memory=True) as profile:
        sums.sum().backward()  # type: ignore[no-untyped-call]  # PyTorch's backward has no types
    # Two dims' gradients and three more buffers of (64, 500), and gradients and norms, which are much smaller.
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 64 * 500 * 4


def test_the_loss_is_that_of_single_precision_under_autocast() -> None:
    batch_inputs = {name: value.detach().float() if value.is_floating_point() else value for name, value in inputs().items()}
    with torch.autocast("cpu", torch.bfloat16):
        under = nested(batch_inputs, NestedInfoNceSettings())
    assert torch.equal(under, nested(batch_inputs, NestedInfoNceSettings()))


REFERENCE = Path(__file__).parents[3] / "golden" / "sentence_transformers_losses.json"


@pytest.mark.parametrize("case", json.loads(REFERENCE.read_text())["cases"], ids=lambda case: str(case["loss"]))
def test_losses_and_gradients_are_those_of_sentence_transformers(case: dict[str, Any]) -> None:
    """Its MatryoshkaLoss over the ordinary and the cached loss, as benchmarks/peers/losses.py recorded them, in double precision."""
    queries = torch.tensor(case["queries"], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor(case["targets"], dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor([1 / case["scale"]], dtype=torch.float64)
    losses = nested_losses(GatheredBatch(queries, targets, slice(0, len(queries))), case["dims"], temperature, NestedInfoNceSettings())
    loss = (losses * torch.tensor(case["weights"], dtype=torch.float64)).sum()
    loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's backward has no types
    assert loss.item() == pytest.approx(case["value"], rel=EXACT)
    for vectors, expected in ((queries, case["query_gradients"]), (targets, case["target_gradients"])):
        torch.testing.assert_close(vectors.grad, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=EXACT)
