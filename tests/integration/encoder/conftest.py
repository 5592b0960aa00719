"""A small random model of each family, and of the one whose tokenizer may append an end token."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from reelnest.backbones.family import FAMILIES
from reelnest.backbones.qwen_vl import END
from reelnest.backbones.tiny import build_tiny
from reelnest.settings import Tiny
from tests.integration.encoder.plain_transformers import PROCESSORS
from tests.support.model_inputs import TEXTS

SIZES = Tiny(hidden_size=64, layers=3, heads=2, vision_hidden_size=32, vision_layers=3, vision_heads=2, vocabulary=400)


@pytest.fixture(scope="module", params=[*PROCESSORS, "qwen3_vl_embedding, end token added"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def name(variant: str) -> str:
    """The family's name."""
    return variant.partition(",")[0]


@pytest.fixture(scope="module")
def base(variant: str, name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model."""
    folder = tmp_path_factory.mktemp(name)
    build_tiny(folder, TEXTS, SIZES, seed=0, family=FAMILIES[name])
    if variant != name:
        path = folder / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.post_processor = TemplateProcessing(single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))])
        tokenizer.save(str(path))
    return folder
