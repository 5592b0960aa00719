"""`train.tf32` sets a flag for the products of a step, which only a GPU reads."""

from typing import Any

import pytest
import torch
from accelerate import Accelerator

from reelnest.backbones.architecture import backbone_config
from reelnest.encoder.unfilled import unfilled_encoder
from reelnest.settings import Params
from reelnest.training.checkpoint.train_state import TrainState
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.losses.objective import Objective, StepLosses
from reelnest.training.memory_prediction.step_shapes import Sizes, stand_in_batcher, step_of
from reelnest.training.step import TrainingStep

TINY = {"hidden_size": 32, "layers": 1, "heads": 2, "vision_hidden_size": 16, "vision_layers": 1, "vision_heads": 2, "vocabulary": 300}


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({}, False),
        ({"mixed_precision": "bf16"}, True),
        ({"tf32": True}, True),
        ({"mixed_precision": "bf16", "tf32": False}, False),
    ],
)
def test_a_step_allows_tf32_as_set_and_what_follows_does_not(
    train: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = Params.model_validate(
        {"model": {"tiny": TINY, "dims": [32], "freeze": "backbone", "projection": 32}, "train": {"batch_size": 4, **train}}
    )
    config = backbone_config(params.model)
    encoder = unfilled_encoder(params.model, config).to_empty(device="cpu")
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    during: list[bool] = []
    forward = Objective.forward

    def watched(objective: Objective, *arguments: Any) -> StepLosses:
        during.append(torch.backends.cuda.matmul.allow_tf32)
        return forward(objective, *arguments)

    monkeypatch.setattr(Objective, "forward", watched)
    batcher = stand_in_batcher(params, config, Sizes(5, (2, 4, 4)))
    accelerator = Accelerator(cpu=True)  # the setting is read from `params`
    step = TrainingStep(params, accelerator, ContrastiveModel(encoder, params.loss, params.model.dims), batcher, 10)
    step(step_of(params, batcher), TrainState())
    assert during == [expected]
    assert torch.backends.cuda.matmul.allow_tf32 is False
