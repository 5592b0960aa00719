"""What decays, and how the learning rate goes."""

import pytest
import torch
from torch import nn

from reelnest.config import Train
from reelnest.training.optimizer import build_optimizer, build_scheduler


def test_norms_biases_and_frozen_weights_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3))
    model[2].weight.requires_grad_(False)
    decays = {parameter: group["weight_decay"] for group in build_optimizer(model, Train()).param_groups for parameter in group["params"]}
    assert decays[model[0].weight] == 0.1
    assert all(decays[parameter] == 0 for parameter in (model[0].bias, model[1].weight, model[1].bias, model[2].bias))
    assert model[2].weight not in decays


def rates(schedule: str, steps: int = 100) -> list[float]:
    train = Train.model_validate({"schedule": schedule, "learning_rate": 1.0, "warmup_fraction": 0.1})
    optimizer = build_optimizer(nn.Linear(2, 2), train)
    scheduler = build_scheduler(optimizer, train, steps)
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("schedule", "middle", "end"), [("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1.0, 1.0)])
def test_each_schedule_warms_up_and_then_goes_its_way(schedule: str, middle: float, end: float) -> None:
    found = rates(schedule)
    assert found[:11] == pytest.approx([step / 10 for step in range(11)])
    assert found[55] == pytest.approx(middle)
    assert found[-1] == pytest.approx(end, abs=0.02)


def test_a_parameter_that_is_one_number_in_a_vector_does_not_decay() -> None:
    model = nn.Linear(2, 2)
    model.register_parameter("log_scale", nn.Parameter(torch.ones(1)))
    groups = build_optimizer(model, Train()).param_groups
    assert any(parameter is model.log_scale for parameter in groups[1]["params"])
    assert groups[1]["weight_decay"] == 0
