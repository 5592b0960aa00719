"""Vectors and gradients of each model family, compared with transformers' own model, processor, masks and positions in float32."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from reelnest.backbones.family import FAMILIES, Family
from reelnest.backbones.qwen_vl import END
from reelnest.encoder.batches import Batcher
from reelnest.encoder.encoder import Encoder, load_encoder
from reelnest.settings import Model
from tests.integration.encoder.plain_transformers import Plain
from tests.support.model_inputs import mixed_entries


def settings(base: Path, name: str) -> Model:
    return Model(
        name_or_path=str(base), family=name, pooling="last", dims=(16, 64), query_instruction="Find it.", target_instruction="See it."
    )


@pytest.mark.parametrize("kind", ["text", "video", "mixed"])
def test_vectors_and_gradients_are_those_of_transformers(base: Path, name: str, kind: str, variant: str) -> None:
    family: Family = FAMILIES[name]
    entries = mixed_entries(vision=family.vision)
    if kind != "mixed":
        entries = [entry for entry in entries if (entry.frames is None) == (kind == "text")]
    model = settings(base, name)
    encoder, tokenizer = load_encoder(model, base, training=True)
    assert encoder.family is family
    batch, plain = Batcher(tokenizer, model, family)(entries), Plain(base, name, model)
    ours = encoder(batch)
    last = batch.segments[0].input_ids[0, -1] == tokenizer.convert_tokens_to_ids(END)
    assert last == (variant != "qwen3_vl_embedding")
    theirs = plain.vectors(entries)
    torch.testing.assert_close(unit(ours), unit(theirs), atol=1e-5, rtol=0)

    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(0))
    for vectors in (ours, theirs):
        (unit(vectors) * weights).sum().backward()
    compare_gradients(encoder, plain.model)


def unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


def compare_gradients(encoder: Encoder, model: PreTrainedModel) -> None:
    own = dict(encoder.backbone.named_parameters())
    compared = 0
    for name, parameter in model.named_parameters():
        gradient = own[name].grad
        if parameter.grad is None:  # the tower, in a batch of texts
            assert gradient is None or not gradient.any(), name
            continue
        assert gradient is not None, name
        assert (gradient - parameter.grad).norm() <= 1e-5 * parameter.grad.norm() + 1e-9, name
        compared += 1
    assert compared >= 3 * 11  # each layer's projections, norms and MLP
