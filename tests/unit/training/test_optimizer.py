"""Weight decay and learning rate schedules."""

import math
from copy import deepcopy
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from reelnest.settings import Train
from reelnest.training.distributed import clip_gradients
from reelnest.training.optimizer import MatrixMuon, build_optimizer, build_scheduler, orthogonal


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_norms_biases_and_frozen_weights_do_not_decay(optimizer: Literal["adamw", "muon"]) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3))
    model[2].weight.requires_grad_(False)
    train = Train(optimizer=optimizer, weight_decay=0.1)
    decays = {parameter: group["weight_decay"] for group in build_optimizer(model, train).param_groups for parameter in group["params"]}
    assert decays[model[0].weight] == 0.1
    assert all(decays[parameter] == 0 for parameter in (model[0].bias, model[1].weight, model[1].bias, model[2].bias))
    assert model[2].weight not in decays


def rates(schedule: str, steps: int = 100) -> list[float]:
    train = Train.model_validate({"schedule": schedule, "learning_rate": 1.0, "warmup_fraction": 0.1})
    optimizer = build_optimizer(nn.Linear(2, 2), train)
    scheduler = build_scheduler(optimizer, train, steps)
    results = []
    for _ in range(steps):
        results.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return results


@pytest.mark.parametrize(("schedule", "middle", "end"), [("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1.0, 1.0)])
def test_each_schedule_warms_up_and_then_goes_its_way(schedule: str, middle: float, end: float) -> None:
    actual = rates(schedule)
    assert actual[:11] == pytest.approx([step / 10 for step in range(11)])
    assert actual[55] == pytest.approx(middle)
    assert actual[-1] == pytest.approx(end, abs=0.02)


def test_a_parameter_that_is_one_number_in_a_vector_does_not_decay() -> None:
    model = nn.Linear(2, 2)
    model.register_parameter("log_scale", nn.Parameter(torch.ones(1)))
    groups = build_optimizer(model, Train(optimizer="adamw")).param_groups
    assert any(parameter is model.log_scale for parameter in groups[1]["params"])
    assert groups[1]["weight_decay"] == 0


class Mixed(nn.Module):
    """A table, a matrix and a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(5, 4)
        self.linear = nn.Linear(4, 3)

    def forward(self) -> Tensor:
        loss: Tensor = self.linear(self.table.weight).square().sum()
        return loss


def stepped(model: nn.Module, *optimizers: torch.optim.Optimizer, steps: int = 3) -> nn.Module:
    for _ in range(steps):
        model().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return model


def test_muon_moves_matrices_and_adamw_all_else() -> None:
    train = Train(optimizer="muon", learning_rate=0.01, weight_decay=0.1)
    ours, reference = Mixed(), Mixed()
    stepped(ours, build_optimizer(ours, train))
    muon = torch.optim.Muon([reference.linear.weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [{"params": [reference.table.weight], "weight_decay": 0.1}, {"params": [reference.linear.bias], "weight_decay": 0.0}], lr=0.01
    )
    stepped(reference, muon, adamw)
    # torch orthogonalizes in bfloat16, which has 8 bits of precision.
    moved, expected = ours.linear.weight - Mixed().linear.weight, reference.linear.weight - Mixed().linear.weight
    assert (moved - expected).norm() < 0.02 * expected.norm()
    torch.testing.assert_close(ours.linear.bias, reference.linear.bias, rtol=0, atol=3e-4)
    torch.testing.assert_close(ours.table.weight, reference.table.weight, rtol=0, atol=3e-4)


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_an_orthogonalized_matrix_keeps_its_directions_and_loses_its_lengths(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ orthogonal(matrix, MatrixMuon([nn.Parameter(matrix)]).param_groups[0]) @ right.T
    lengths = inner.diagonal()
    torch.testing.assert_close(inner, torch.diag(lengths), rtol=0, atol=1e-4)
    assert lengths.min() > 0.6
    assert lengths.max() < 1.3


def test_a_loaded_state_goes_on_as_the_unbroken_run_would() -> None:
    train = Train(optimizer="muon", learning_rate=0.01)
    unbroken, resumed = Mixed(), Mixed()
    first = build_optimizer(unbroken, train)
    stepped(unbroken, first)
    second = build_optimizer(resumed, train)
    resumed.load_state_dict(unbroken.state_dict())
    second.load_state_dict(deepcopy(first.state_dict()))
    stepped(unbroken, first)
    stepped(resumed, second)
    for actual, expected in zip(resumed.parameters(), unbroken.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_muon_needs_neither_matrices_nor_others() -> None:
    bias_free = nn.Linear(2, 2, bias=False)
    assert len(build_optimizer(bias_free, Train(optimizer="muon")).param_groups) == 1
    assert len(build_optimizer(nn.LayerNorm(2), Train(optimizer="muon")).param_groups) == 1


def test_gradients_are_clipped_as_torch_clips_them() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(2))]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    for parameters in (ours, theirs):
        for parameter in parameters[:2]:  # the third has no gradient
            parameter.grad = parameter.detach() * 3
    for largest in (math.inf, 1.0):
        torch.testing.assert_close(clip_gradients(ours, largest), nn.utils.clip_grad_norm_(theirs, largest))
        for own, reference in zip(ours[:2], theirs[:2], strict=True):
            torch.testing.assert_close(own.grad, reference.grad)
