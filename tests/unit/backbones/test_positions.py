from pathlib import Path

import torch
import torch.nn.functional as F
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index

from reelnest.backbones.attention import grouped_sdpa
from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.backbones.positions import vision_index
from reelnest.encoder.batches import Batcher
from reelnest.encoder.encoder import load_encoder
from reelnest.settings import Model
from tests.support.model_inputs import mixed_entries


def test_token_positions_equal_transformers(tiny_base: Path) -> None:
    encoder, tokenizer = load_encoder(Model(), tiny_base, training=False)
    text, video = Batcher(tokenizer, Model(), FAMILY)(mixed_entries()).segments
    expected, _ = encoder.backbone.get_rope_index(
        video.input_ids,
        video.mm_token_type_ids,
        video_grid_thw=video.video_grid_thw,
        second_per_grid_ts=video.second_per_grid_ts,
        attention_mask=video.attention_mask,
    )
    config = encoder.backbone.config
    actual = FAMILY.positions(video, config)
    assert torch.equal(actual, expected)
    assert len(actual[0][video.mm_token_type_ids == 2].unique()) > 4  # positions differ in time
    counted = FAMILY.positions(text, config)
    for mask, row in zip(text.attention_mask.bool(), counted.unbind(1), strict=True):
        assert torch.equal(row[:, mask], torch.arange(int(mask.sum())).expand(3, -1))


def test_the_vision_index_equals_transformers(tiny_base: Path) -> None:
    encoder, _ = load_encoder(Model(), tiny_base, training=False)
    vision = encoder.backbone.config.vision_config
    grid = torch.tensor([[4, 4, 4], [3, 12, 20], [1, 2, 2], [4, 4, 4], [2, 18, 8]])
    actual = vision_index(grid, vision.spatial_merge_size, vision.window_size, vision.patch_size)
    window, window_ends = get_vision_window_index(
        grid, spatial_merge_size=vision.spatial_merge_size, window_size=vision.window_size, patch_size=vision.patch_size
    )
    assert torch.equal(actual.position_ids, get_vision_position_ids(grid, vision.spatial_merge_size))
    assert torch.equal(actual.cu_seqlens, get_vision_cu_seqlens(grid))
    assert torch.equal(actual.window_index, window)
    assert torch.equal(actual.cu_window_seqlens, window_ends)


def test_grouped_attention_equals_one_call_a_sequence() -> None:
    torch.manual_seed(0)
    for lengths in ([16] * 5, [16, 4, 16, 8, 4, 4, 1]):
        ends = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()
        query, key, value = (torch.randn(1, 3, sum(lengths), 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
        weights = torch.randn(1, sum(lengths), 3, 8, dtype=torch.float64)
        actual, _ = grouped_sdpa(torch.nn.Module(), query, key, value, None, scaling=0.3, cu_seq_lens_q=ends)
        pieces = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
        expected = torch.cat([((q @ k.mT * 0.3).softmax(-1) @ v).transpose(1, 2) for q, k, v in pieces], dim=1)
        torch.testing.assert_close(actual, expected)
        gradients = [torch.autograd.grad((out * weights).sum(), (query, key, value), retain_graph=True) for out in (actual, expected)]
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs)
