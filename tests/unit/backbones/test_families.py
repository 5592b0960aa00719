"""The facts of each family's file compared with transformers' model of it."""

import re
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoModel

from reelnest.backbones.architecture import backbone_config
from reelnest.backbones.family import FAMILIES
from reelnest.backbones.registry import family_of, family_of_config
from reelnest.encoder.encoder import Encoder
from reelnest.encoder.unfilled import unfilled_encoder
from reelnest.errors import ModelError
from reelnest.settings import Lora, Model

# Numbers of parameters of the published checkpoints, without a separate language head, which the encoder does not use.
PARAMETERS = {
    "Qwen2-VL-2B": 2_208_985_600,
    "Qwen2-VL-7B": 8_291_375_616 - 152_064 * 3584,
    "Qwen2.5-VL-3B": 3_754_622_976,
    "Qwen2.5-VL-7B": 8_292_166_656 - 152_064 * 3584,
}


def tiny(name: str, **settings: Any) -> Encoder:
    model = Model(family=name, **settings)
    return unfilled_encoder(model, backbone_config(model))


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_architecture_has_as_many_parameters_as_the_published_files(name: str) -> None:
    config = backbone_config(Model(name_or_path=f"Qwen/{name}-Instruct", revision="0" * 40))
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", FAMILIES.names())
def test_every_published_name_has_its_family_width_and_architecture(name: str) -> None:
    family = FAMILIES[name]
    assert family.published_names
    for published in family.published_names:
        model = Model(name_or_path=f"Qwen/{published}", revision="0" * 40)
        assert family_of(model) is family
        config = backbone_config(model)
        assert config.get_text_config().hidden_size == family.hidden_size_of(model.name_or_path)
        assert family_of_config(config.to_dict(), "config") is family


@pytest.mark.parametrize("name", FAMILIES.names())
def test_layers_are_sharded_one_by_one_and_adapted_completely(name: str) -> None:
    encoder = tiny(name, lora=Lora(r=2, vision=True))
    tower: Any = encoder.vision_tower
    language_model: Any = encoder.language_model
    layers = [*tower.blocks, *language_model.layers]
    assert [module for module in encoder.modules() if type(module).__name__ in encoder.family.wrap_classes] == layers
    adapted = {id(module) for module in encoder.modules() if isinstance(module, LoraLayer)}
    linear = {
        id(module)
        for layer in layers
        for path, module in layer.named_modules()
        if isinstance(module, nn.Linear | LoraLayer) and not re.search(r"lora_|base_layer", path)
    }
    assert adapted == linear
    assert len(adapted) == 3 * 7 + len(tower.blocks) * len([m for m in tower.blocks[0].modules() if isinstance(m, LoraLayer)])


@pytest.mark.parametrize("name", FAMILIES.names())
def test_the_vision_spec_is_that_of_the_model(name: str) -> None:
    encoder = tiny(name)
    vision, config = encoder.vision, encoder.backbone.config.vision_config
    assert (vision.patch_size, vision.merge_size) == (config.patch_size, config.spatial_merge_size)
    assert vision.temporal_patch_size == config.temporal_patch_size


def test_an_unknown_model_type_lists_the_known_ones() -> None:
    with pytest.raises(
        ModelError, match=r"x/config.json: model_type is 'llava'; known model types: 'qwen2_5_vl' \(Qwen2\.5-VL\), 'qwen2_vl'"
    ):
        family_of_config({"model_type": "llava"}, "x/config.json")


def test_an_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown model family 'llava'; known: qwen2_5_vl, qwen2_vl"):
        Model(family="llava")


def test_a_family_that_does_not_fit_the_folder_is_refused(tiny_base: Any) -> None:
    with pytest.raises(
        ModelError, match=r"model\.family is qwen2_vl, but model_type in the config.json of .* is 'qwen2_5_vl'\. Set it to null"
    ):
        backbone_config(Model(name_or_path=str(tiny_base), family="qwen2_vl"))
