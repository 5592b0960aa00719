import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2_5_VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from reelnest.backbones.families.qwen2_5_vl import FAMILY, VISION
from reelnest.backbones.segments import Segment
from reelnest.encoder.batches import Batcher
from reelnest.encoder.encoder import Encoder, load_encoder
from reelnest.errors import ModelError
from reelnest.settings import Model
from reelnest.store.entries import Entry
from reelnest.video.frames import Frames
from reelnest.video.patches import to_patches
from tests.support.model_inputs import mixed_entries, random_video

TEXT = Entry("query", "a red circle moves", None)


def encoder_of(base: Path, settings: Model, *, training: bool = False) -> tuple[Encoder, Batcher]:
    torch.manual_seed(0)
    encoder, tokenizer = load_encoder(settings, base, training=training)
    return encoder, Batcher(tokenizer, settings, FAMILY)


def qwen_alone(base: Path, segment: Segment, encoder: Encoder) -> torch.Tensor:
    """Returns hidden states of transformers' forward, with its attention and indices."""
    model = Qwen2_5_VLModel.from_pretrained(base, attn_implementation="sdpa")
    inputs = {"input_ids": segment.input_ids, "attention_mask": segment.attention_mask, "use_cache": False}
    if segment.rows is not None:
        inputs |= {
            "mm_token_type_ids": segment.mm_token_type_ids,
            "pixel_values_videos": encoder.normalise_pixels(segment.rows),
            "video_grid_thw": segment.video_grid_thw,
            "second_per_grid_ts": segment.second_per_grid_ts,
        }
    hidden: torch.Tensor = model(**inputs).last_hidden_state
    return hidden.detach()


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_vectors_equal_qwens_own_forward(tiny_base: Path, pooling: str) -> None:
    instructions = {"query": "Find it.", "target": "See it."}
    settings = Model(pooling=pooling, query_instruction="Find it.", target_instruction="See it.")  # type: ignore[arg-type]  # a parameter of the test
    encoder, batcher = encoder_of(tiny_base, settings)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    entries = mixed_entries()
    batch = batcher(entries)
    vectors = encoder(batch)
    assert vectors.shape == (5, 128)
    assert vectors.dtype == torch.float32
    for segment, where in zip(batch.segments, ([0, 2], [1, 3, 4]), strict=True):
        hidden = qwen_alone(tiny_base, segment, encoder)
        for row, index in enumerate(where):
            tokens = hidden[row][segment.attention_mask[row].bool()]
            instruction = len(tokenizer(instructions[entries[index].role] + "\n").input_ids)
            expected = tokens[-1] if pooling == "last" else tokens[instruction:].mean(0)
            torch.testing.assert_close(vectors[index], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_an_entry_has_the_same_vector_alone_and_in_a_mixed_batch(tiny_base: Path, pooling: str) -> None:
    encoder, batcher = encoder_of(tiny_base, Model(pooling=pooling))  # type: ignore[arg-type]  # a parameter of the test
    entries = mixed_entries()
    together = encoder(batcher(entries))
    for vector, entry in zip(together, entries, strict=True):
        torch.testing.assert_close(encoder(batcher([entry]))[0], vector, atol=2e-5, rtol=1e-4)


def test_eager_attention_gives_the_same_vectors(tiny_base: Path) -> None:
    vectors = [
        encoder(batcher(mixed_entries())) for encoder, batcher in (encoder_of(tiny_base, Model(attention=a)) for a in ("sdpa", "eager"))
    ]
    torch.testing.assert_close(*vectors, atol=5e-5, rtol=1e-4)


def test_order_in_time_role_and_text_change_the_vector(tiny_base: Path) -> None:
    encoder, batcher = encoder_of(tiny_base, Model(pooling="last", query_instruction="Find it."))
    video = random_video(1)
    backwards = Frames.of(np.concatenate(np.split(video.rows, 4)[::-1]), video.grid_thw, video.seconds_per_grid, VISION)
    slower = Frames.of(video.rows, video.grid_thw, 2.0, VISION)
    variants = [
        Entry("target", "", video),
        Entry("target", "", backwards),
        Entry("target", "", slower),
        Entry("query", "", video),
        Entry("target", "x", video),
    ]
    vectors = torch.nn.functional.normalize(encoder(batcher(variants)), dim=-1)
    assert ((vectors @ vectors.T).fill_diagonal_(0) < 0.999).all()


def test_pixels_are_normalised_as_qwens_processor_does(tiny_base: Path) -> None:
    encoder, _ = encoder_of(tiny_base, Model())
    frame = np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)
    rows, _ = to_patches(np.stack([frame, frame]), VISION)
    expected = Qwen2VLImageProcessorPil()(images=Image.fromarray(frame), do_resize=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(encoder.normalise_pixels(torch.from_numpy(np.ascontiguousarray(rows))), expected, atol=1e-6, rtol=1e-6)


def test_a_dim_above_the_width_is_refused(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match=r"256 is above the embedding's width, 128 \(the hidden size\)"):
        load_encoder(Model(dims=(64, 256)), tiny_base, training=False)
    with pytest.raises(ModelError, match=r"128 is above the embedding's width, 64 \(model.projection\)"):
        load_encoder(Model(dims=(64, 128), projection=64), tiny_base, training=False)


def test_a_projection_sets_the_width(tiny_base: Path) -> None:
    encoder, batcher = encoder_of(tiny_base, Model(projection=48, dims=(16, 48)))
    plain, _ = encoder_of(tiny_base, Model())
    assert encoder.projection is not None
    assert encoder.projection.bias is None
    batch = batcher(mixed_entries())
    torch.testing.assert_close(encoder(batch), plain(batch) @ encoder.projection.weight.T, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [("none", ()), ("vision", ("backbone.visual.",)), ("backbone", ("backbone.",))],
)
def test_what_is_frozen_gets_no_gradient_and_all_else_does(tiny_base: Path, freeze: str, frozen: tuple[str, ...]) -> None:
    encoder, batcher = encoder_of(tiny_base, Model(freeze=freeze, projection=128), training=True)  # type: ignore[arg-type]  # a parameter of the test
    encoder(batcher(mixed_entries())).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen or "-"), name
    assert set(encoder.trainable_state()) == {name for name, p in encoder.named_parameters() if p.grad is not None}


def test_a_step_without_video_touches_the_vision_tower_and_changes_nothing(tiny_base: Path) -> None:
    encoder, batcher = encoder_of(tiny_base, Model(), training=True)
    vectors = encoder(batcher([TEXT]))
    vectors.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any() == (not name.startswith("backbone.visual.")), name
    frozen, _ = encoder_of(tiny_base, Model())
    assert torch.equal(frozen(batcher([TEXT])), vectors.detach())


def test_gradient_checkpointing_gives_the_same_gradients(tiny_base: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        encoder, batcher = encoder_of(tiny_base, Model(), training=True)
        if checkpointing:
            encoder.enable_gradient_checkpointing()
            assert encoder.backbone.language_model.layers[0].gradient_checkpointing
            assert encoder.backbone.visual.blocks[0].gradient_checkpointing
        encoder(batcher(mixed_entries())).square().mean().backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_bfloat16_weights_still_give_float32_vectors(tiny_base: Path) -> None:
    encoder, batcher = encoder_of(tiny_base, Model(dtype="bfloat16"))
    exact, _ = encoder_of(tiny_base, Model())
    batch = batcher(mixed_entries())
    vectors = encoder(batch)
    assert encoder.backbone.dtype == torch.bfloat16
    assert vectors.dtype == torch.float32
    assert torch.cosine_similarity(vectors, exact(batch)).min() > 0.97


def test_trainable_weights_can_be_put_back(tiny_base: Path) -> None:
    encoder, batcher = encoder_of(tiny_base, Model(freeze="vision"), training=True)
    before = encoder(batcher([TEXT]))
    state = {name: value.clone() for name, value in encoder.trainable_state().items()}
    with torch.no_grad():
        for parameter in encoder.backbone.language_model.parameters():
            parameter.mul_(1.1)
    assert not torch.equal(encoder(batcher([TEXT])), before)
    encoder.load_trainable_state(state)
    assert torch.equal(encoder(batcher([TEXT])), before)
    with pytest.raises(ModelError, match="other settings"):
        encoder.load_trainable_state({"backbone.other": torch.zeros(1)})


def test_new_weights_follow_torchs_seed(tiny_base: Path) -> None:
    first, second = (encoder_of(tiny_base, Model(projection=32, dims=(32,)), training=True)[0] for _ in range(2))
    assert first.projection is not None
    assert second.projection is not None
    assert torch.equal(first.projection.weight, second.projection.weight)
    assert first.projection.weight.std().item() == pytest.approx(1 / math.sqrt(3 * 128), rel=0.1)
