"""The moving average of the weights, compared with torch's."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from reelnest.encoder.ema import Ema


def model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[1].bias.requires_grad_(False)
    return model


def walk(model: nn.Module, step: int) -> None:
    """Changes the trainable weights."""
    random = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=random).to(parameter.dtype), alpha=0.1)


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_the_average_is_torchs_with_a_decay_that_warms_up() -> None:
    trained = model()
    ema = Ema(trained, 0.9)

    def average(averaged: Tensor, weight: Tensor, steps: Tensor | int) -> Tensor:
        # torch's first update copies the weights.
        decay = min(0.9, (1 + int(steps)) / (10 + int(steps)))
        return decay * averaged + (1 - decay) * weight

    reference = AveragedModel(trained, avg_fn=average)
    reference.update_parameters(trained)
    for step in range(120):
        walk(trained, step)
        ema.update()
        reference.update_parameters(trained)
    with ema.in_place():
        for actual, expected in zip(trained.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(actual, expected)


def test_the_weights_come_back_to_the_last_bit_even_after_an_error() -> None:
    trained = model()
    ema = Ema(trained, 0.99)
    walk(trained, 1)
    ema.update()
    before = weights(trained)
    during: list[Tensor] = []

    def evaluate_and_fail() -> None:
        with ema.in_place():
            during.extend(weights(trained))
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        evaluate_and_fail()
    assert not torch.equal(during[0], before[0])
    assert all(torch.equal(a, b) for a, b in zip(weights(trained), before, strict=True))


def test_a_restored_average_goes_on_to_the_last_bit() -> None:
    trained = model()
    ema = Ema(trained, 0.99)
    for step in range(5):
        walk(trained, step)
        ema.update()
    state = ema.state()
    assert sorted(state["averages"]) == ["0.bias", "0.weight", "1.weight"]
    restored = Ema(trained, 0.99)
    restored.load_state(state)
    for step in range(5, 8):
        walk(trained, step)
        ema.update()
        restored.update()
    assert restored.state()["steps"] == 8
    for name, average in ema.state()["averages"].items():
        assert torch.equal(restored.state()["averages"][name], average)
    assert not torch.equal(state["averages"]["0.weight"], ema.state()["averages"]["0.weight"]), "a state is a copy"


def test_averages_of_bfloat16_weights_move_by_less_than_bfloat16_resolves() -> None:
    trained = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(trained.weight)
    ema = Ema(trained, 0.999)
    ema.load_state({"steps": 100_000, "averages": {"weight": torch.ones(1, 1)}})
    nn.init.constant_(trained.weight, 1.25)
    for _ in range(100):
        ema.update()
    assert ema.state()["averages"]["weight"].item() == pytest.approx(1.25 - 0.25 * 0.999**100, rel=1e-5)
