from itertools import product

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as qwen_smart_resize

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.video.patches import from_patches, smart_resize, to_patches


def random_frames(time: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (time, height, width, 3), dtype=np.uint8)


def normalised(rows: np.ndarray) -> np.ndarray:
    """Normalises rows as the encoder does. Each row has 392 values per channel."""
    mean, std = (np.repeat(np.array(values, dtype=np.float32), 392) for values in (VISION.mean, VISION.std))
    return (rows.astype(np.float32) / 255 - mean) / std


def test_smart_resize_is_qwens() -> None:
    for height, width in product((11, 14, 27, 42, 70, 128, 480, 719, 1080, 2000), repeat=2):
        for least, most in ((3136, 12544), (3136, 602112), (100352, 602112), (784, 784)):
            expected = qwen_smart_resize(height, width, factor=28, min_pixels=least, max_pixels=most)
            assert smart_resize(height, width, least, most, 28) == expected, (height, width, least, most)


def test_a_frame_far_longer_than_wide_is_refused_as_by_qwen() -> None:
    with pytest.raises(ValueError, match="aspect ratio"):
        qwen_smart_resize(1, 201)
    with pytest.raises(ValueError, match="201 x 1 pixels is more than 200 times"):
        smart_resize(1, 201, 3136, 602112, 28)


@pytest.mark.parametrize(("height", "width"), [(100, 150), (56, 84), (37, 500), (720, 405)])
def test_rows_equal_those_of_qwens_image_processor(height: int, width: int) -> None:
    frame = random_frames(1, height, width)[0]
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 50176})
    theirs = processor(Image.fromarray(frame), return_tensors="np")

    new_height, new_width = smart_resize(height, width, 3136, 50176, 28)
    resized = np.asarray(Image.fromarray(frame).resize((new_width, new_height), Image.Resampling.BICUBIC))
    # Qwen repeats an image to fill a patch's two frames, as `to_patches` does with an odd last frame.
    rows, grid = to_patches(resized[None], VISION)

    assert grid.tolist() == theirs["image_grid_thw"][0].tolist()
    # The pixels are bit-identical after undoing their normalisation and rounding. Normalised values differ only by float32 rounding.
    mean, std = (np.repeat(np.array(values), 392) for values in (VISION.mean, VISION.std))
    assert np.array_equal(np.rint((theirs["pixel_values"] * std + mean) * 255).astype(np.uint8), rows)
    np.testing.assert_allclose(normalised(rows), theirs["pixel_values"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("time", [2, 5, 8])
def test_rows_equal_those_of_qwens_video_processor(time: int) -> None:
    pytest.importorskip("torchvision", reason="Qwen2VLVideoProcessor needs torchvision")
    import torch
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    frames = random_frames(time, 56, 84)
    theirs = Qwen2VLVideoProcessor(do_resize=False)(torch.from_numpy(frames).permute(0, 3, 1, 2), return_tensors="pt")
    rows, grid = to_patches(frames, VISION)
    assert grid.tolist() == theirs["video_grid_thw"][0].tolist()
    np.testing.assert_allclose(normalised(rows), theirs["pixel_values_videos"].numpy(), rtol=0, atol=1e-6)


def test_each_value_is_in_its_place_of_qwens_layout() -> None:
    frames = random_frames(6, 84, 56)
    rows, grid = to_patches(frames, VISION)
    steps, down, across = grid.tolist()
    assert rows.shape == (steps * down * across, 1176)
    random = np.random.default_rng(0)
    for _ in range(300):
        time, y, x, channel = (int(random.integers(0, size)) for size in frames.shape)
        patch_y, patch_x = y // 14, x // 14
        row = (time // 2) * down * across  # all patches of the steps before
        row += (patch_y // 2 * (across // 2) + patch_x // 2) * 4  # the squares before
        row += patch_y % 2 * 2 + patch_x % 2
        column = channel * 392 + time % 2 * 196 + y % 14 * 14 + x % 14
        assert rows[row, column] == frames[time, y, x, channel]


def test_frames_come_back_from_their_rows() -> None:
    frames = random_frames(4, 56, 112)
    rows, grid = to_patches(frames, VISION)
    assert np.array_equal(from_patches(rows, (int(grid[0]), int(grid[1]), int(grid[2])), VISION), frames)


def test_an_odd_last_frame_is_repeated() -> None:
    frames = random_frames(3, 28, 28)
    rows, grid = to_patches(frames, VISION)
    assert np.array_equal(from_patches(rows, (2, 2, 2), VISION)[3], frames[2])
    assert grid.tolist() == [2, 2, 2]


def test_sides_that_are_no_multiples_of_28_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 28"):
        to_patches(random_frames(2, 42, 28), VISION)
