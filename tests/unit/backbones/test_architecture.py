"""The sizes of the published models, known without a download."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from reelnest.backbones.architecture import backbone_config
from reelnest.backbones.families.qwen2_5_vl import FAMILY, SIZES
from reelnest.backbones.tiny import build_tiny
from reelnest.errors import ModelError
from reelnest.settings import Model, Tiny

# Bytes of the published bfloat16 weights (`total_size` in model.safetensors.index.json), and whether they include a separate language head,
# which the encoder does not use.
PUBLISHED = {"3B": (7_509_245_952, False), "7B": (16_584_333_312, True)}


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_architecture_has_as_many_parameters_as_the_published_files(size: str) -> None:
    config = FAMILY.config_of(f"Qwen/Qwen2.5-VL-{size}-Instruct")
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    total, has_head = PUBLISHED[size]
    head = config.text_config.vocab_size * config.text_config.hidden_size if has_head else 0
    assert 2 * (sum(parameter.numel() for parameter in model.parameters()) + head) == total


@pytest.mark.parametrize("size", SIZES)
def test_every_size_whose_width_is_known_has_its_architecture(size: str) -> None:
    name = f"Qwen/Qwen2.5-VL-{size}-Instruct"
    config = backbone_config(Model(name_or_path=name, revision="0" * 40))
    assert config.text_config.hidden_size == FAMILY.hidden_size_of(name)


def test_an_unknown_name_is_an_error_with_advice() -> None:
    with pytest.raises(ModelError, match=r"'someone/else' are not known without the Hub \(known: Qwen2\.5-VL-3B, .*Download the model"):
        backbone_config(Model(name_or_path="someone/else", revision="0" * 40))


def test_a_folder_gives_the_architecture_that_it_holds(tmp_path: Path) -> None:
    tiny = Tiny(hidden_size=64, layers=2, heads=2, vision_hidden_size=32, vision_layers=1, vision_heads=2, vocabulary=300)
    build_tiny(tmp_path, ["words"], tiny, seed=0)
    config = backbone_config(Model(name_or_path=str(tmp_path), dims=(64,)))
    assert (config.text_config.hidden_size, config.text_config.num_hidden_layers, config.vision_config.depth) == (64, 2, 1)
    assert backbone_config(Model(tiny=tiny, dims=(64,))).vision_config.to_dict() == config.vision_config.to_dict()


def test_a_folder_of_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=r"model_type is 'bert'; known model types: 'qwen2_5_vl' \(Qwen2\.5-VL\)"):
        backbone_config(Model(name_or_path=str(tmp_path), dims=(64,)))
