"""Index tensors of the Qwen-VL families, computed once per batch without a loop over tokens.

transformers loops over each row's tokens and each video's windows in Python, in every forward pass. On a small model that takes as long as
the model. The tests compare both functions with transformers.
"""

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from reelnest.backbones.segments import VIDEO_TYPE, Segment


def token_positions(segment: Segment, merge_size: int, interval: Tensor | None) -> Tensor:
    """Returns rotary positions in time, height and width, int64 (3, rows, tokens), as `Qwen2_5_VLModel.get_rope_index` defines them.

    Text advances by 1 on all three axes. A video starts at the end of the text before it. Its temporal steps are `interval`, (rows,),
    apart; its rows and columns count from the start. The text after it continues from the longer side. Padding is 0. A row holds at most
    one video, as one block of tokens.
    """
    mask = segment.attention_mask.bool()
    is_video = segment.mm_token_type_ids == VIDEO_TYPE
    text_before = (mask & ~is_video).cumsum(1)  # (rows, tokens), including the token itself
    text = (text_before - 1).clamp_min(0)
    if segment.video_grid_thw is None or interval is None:
        return text.masked_fill(~mask, 0).expand(3, -1, -1)
    device = segment.input_ids.device
    sides = (segment.video_grid_thw[:, 1:] // merge_size).to(device, non_blocking=True)  # (rows, 2), in tokens
    height, width = sides[:, :1], sides[:, 1:]
    interval = interval.to(device, non_blocking=True)[:, None]
    seen = is_video.cumsum(1)
    token = (seen - 1).clamp_min(0)  # the video token's own number
    step = token // (height * width)
    video = torch.stack([(step * interval).long(), token // width % height, token % width]) + text_before
    after = text + torch.where(seen > 0, torch.maximum(height, width), 0)
    return torch.where(is_video, video, after).masked_fill(~mask, 0)


def timed_positions(segment: Segment, merge_size: int) -> Tensor:
    """Returns positions as `Qwen3VLModel.get_rope_index` defines them: each temporal step is a block of tokens of its own.

    All tokens of a step have the same position in time, that of the end of the text before it. The text after a step, such as the time of
    the next one, continues from the longer side.
    """
    mask = segment.attention_mask.bool()
    is_video = segment.mm_token_type_ids == VIDEO_TYPE
    text_before = (mask & ~is_video).cumsum(1)  # (rows, tokens), including the token itself
    text = (text_before - 1).clamp_min(0)
    if segment.video_grid_thw is None:
        return text.masked_fill(~mask, 0).expand(3, -1, -1)
    sides = (segment.video_grid_thw[:, 1:] // merge_size).to(segment.input_ids.device, non_blocking=True)  # (rows, 2), in tokens
    height, width = sides[:, :1], sides[:, 1:]
    longer = torch.maximum(height, width)
    seen = is_video.cumsum(1)
    token = (seen - 1).clamp_min(0)  # the video token's own number
    step, place = token // (height * width), token % (height * width)
    video = torch.stack([torch.zeros_like(place), place // width, place % width]) + text_before + longer * step
    after = text + longer * (seen // (height * width))
    return torch.where(is_video, video, after).masked_fill(~mask, 0)


class FrameIndex(NamedTuple):
    """The grouping of patches for a vision tower in which each frame attends to itself. Fields have the names of its arguments."""

    position_ids: Tensor  # int64 (patches, 2): row and column of each patch
    cu_seqlens: Tensor  # int32: frame boundaries


class InterpolatedIndex(NamedTuple):
    """Like FrameIndex, for a vision tower that interpolates learnt positions."""

    position_ids: Tensor
    cu_seqlens: Tensor
    interp_indices: Tensor  # int64 (patches, 4): the neighbours in the table of positions
    interp_weights: Tensor  # float32 (patches, 4)


class VisionIndex(NamedTuple):
    """Like FrameIndex, for a vision tower that divides frames into windows."""

    position_ids: Tensor  # int64 (patches, 2): row and column of each patch
    cu_seqlens: Tensor  # int32: frame boundaries
    window_index: Tensor  # int64 (tokens,): tokens ordered by window
    cu_window_seqlens: Tensor  # int32: window boundaries


def frame_index(grid_thw: Tensor, merge_size: int) -> FrameIndex:
    """Returns the index of all videos of a segment. Results for a grid are cached."""
    videos = [_frames(tuple(grid), merge_size) for grid in grid_thw.tolist()]
    return FrameIndex(torch.cat([video.position_ids for video in videos]), _ends([video.cu_seqlens for video in videos]))


def interpolated_index(grid_thw: Tensor, merge_size: int, table_side: int) -> InterpolatedIndex:
    """Returns a `frame_index` with the places of patches in a table of `table_side` x `table_side` learnt positions."""
    tables = [_interpolation(tuple(grid), merge_size, table_side) for grid in grid_thw.tolist()]
    return InterpolatedIndex(*frame_index(grid_thw, merge_size), *(torch.cat(parts) for parts in zip(*tables, strict=True)))


def tower_arguments(index: FrameIndex | InterpolatedIndex | VisionIndex, tower: PreTrainedModel) -> dict[str, Tensor]:
    """Returns an index as the tower's arguments, on its device. Only FlashAttention reads boundaries there; others read them as numbers."""
    flash = tower.config._attn_implementation == "flash_attention_2"
    return {name: _on(tower.device, value) if flash or not name.startswith("cu_") else value for name, value in index._asdict().items()}


def _on(device: torch.device, value: Tensor) -> Tensor:
    # A copy from pageable memory of more than 64 KB waits for the GPU.
    return (value.pin_memory() if device.type == "cuda" else value).to(device, non_blocking=True)


def vision_index(grid_thw: Tensor, merge_size: int, window_size: int, patch_size: int) -> VisionIndex:
    """Returns the index of all videos of a segment, with windows of `window_size` pixels. Results for a grid are cached."""
    videos = [_video_index(tuple(grid), merge_size, window_size, patch_size) for grid in grid_thw.tolist()]
    tokens = torch.tensor([0, *(len(video.window_index) for video in videos)]).cumsum(0).tolist()
    return VisionIndex(
        torch.cat([video.position_ids for video in videos]),
        _ends([video.cu_seqlens for video in videos]),
        torch.cat([video.window_index + start for video, start in zip(videos, tokens, strict=False)]),
        _ends([video.cu_window_seqlens for video in videos]),
    )


@lru_cache(maxsize=4096)
def _video_index(grid: tuple[int, int, int], merge: int, window: int, patch: int) -> VisionIndex:
    grids = torch.tensor([grid])
    window_index, window_ends = get_vision_window_index(grids, spatial_merge_size=merge, window_size=window, patch_size=patch)
    return VisionIndex(*_frames(grid, merge), window_index, window_ends)


@lru_cache(maxsize=1024)
def _interpolation(grid: tuple[int, int, int], merge: int, side: int) -> tuple[Tensor, Tensor]:
    return get_vision_interpolation_indices_and_weights(
        torch.tensor([grid]), num_grid_per_side=side, mode="bilinear", align_corners=True, spatial_merge_size=merge
    )


@lru_cache(maxsize=4096)
def _frames(grid: tuple[int, int, int], merge: int) -> FrameIndex:
    ends = torch.arange(grid[0] + 1, dtype=torch.int32) * (grid[1] * grid[2])
    return FrameIndex(get_vision_position_ids(torch.tensor([grid]), merge), ends)


def _ends(each: list[Tensor]) -> Tensor:
    lengths = torch.cat([ends.diff() for ends in each])
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


@lru_cache(maxsize=256)
def group_by_length(ends: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
    """Groups concatenated sequences by length.

    Returns the token indices of each length, (sequences, length), and the inverse permutation of the concatenated groups.
    """
    starts: dict[int, list[int]] = {}
    for start, end in pairwise(ends):
        starts.setdefault(end - start, []).append(start)
    groups = [torch.tensor(where)[:, None] + torch.arange(length) for length, where in sorted(starts.items())]
    return groups, torch.cat([index.flatten() for index in groups]).argsort()
