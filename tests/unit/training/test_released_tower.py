"""A vision tower whose features are cached leaves the GPU."""

import pytest
from accelerate import Accelerator
from torch import Tensor

from reelnest.backbones.architecture import backbone_config
from reelnest.encoder.unfilled import unfilled_encoder
from reelnest.settings import Params
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.memory_prediction.step_shapes import Sizes, stand_in_batcher
from reelnest.training.step import TrainingStep

TINY = {"hidden_size": 32, "layers": 2, "heads": 2, "vision_hidden_size": 16, "vision_layers": 2, "vision_heads": 2, "vocabulary": 300}


@pytest.mark.parametrize("is_cached", [True, False])
def test_only_a_tower_with_cached_tokens_is_moved_and_without_its_buffers(is_cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    train = {"batch_size": 4, "trackers": [], "optimizer": "adamw"}
    model_settings = {"tiny": TINY, "dims": [8, 32], "freeze": "vision"}
    params = Params.model_validate({"model": model_settings, "train": train, "launch": {"config": "cpu-1"}})
    config = backbone_config(params.model)
    encoder = unfilled_encoder(params.model, config).to_empty(device="cpu")
    encoder.vision_is_cached = is_cached
    tensors = dict(encoder.named_parameters()) | dict(encoder.named_buffers())
    places = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    monkeypatch.setattr(Tensor, "cpu", Tensor.clone)  # on a CPU it would give the same memory
    model, batcher = ContrastiveModel(encoder, params.loss, params.model.dims), stand_in_batcher(params, config, Sizes(5, (2, 4, 4)))
    TrainingStep(params, Accelerator(cpu=True), model, batcher, 10)

    moved = {name for name, tensor in tensors.items() if tensor.data_ptr() != places[name]}
    tower = {f"backbone.visual.{name}" for name, _ in encoder.vision_tower.named_parameters()}
    assert moved == (tower if is_cached else set())
