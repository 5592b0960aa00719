import math
from pathlib import Path

import numpy as np
import pytest

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.settings import Preprocess
from reelnest.video.frames import FrameSettings
from reelnest.video.sampling import FRAME_SAMPLERS, Clip, FrameSampler, frame_indices, seconds_per_grid
from tests.support.video_keys import video_key


def chosen(sampling: str, total: int, seconds: float, frames: int, fps: float = 2.0) -> list[int]:
    clip = Clip(np.arange(total) * seconds / total, seconds, 2)
    return FRAME_SAMPLERS[sampling].choose(clip, frames, fps).tolist()


def qwen_count(total: int, video_fps: float, fps: float, most: int) -> int:
    """`smart_nframes` of qwen-vl-utils 0.0.14, with FPS_MIN_FRAMES lowered to 2."""
    least = 2
    most = math.floor(most / 2) * 2
    count = total / video_fps * fps
    count = min(min(max(count, least), most), total)
    return math.floor(count / 2) * 2


@pytest.mark.parametrize("total", [2, 3, 7, 24, 60, 250, 1001])
@pytest.mark.parametrize("video_fps", [12.0, 25.0, 50.0])
@pytest.mark.parametrize("fps", [0.5, 1.0, 2.0, 4.0])
def test_frames_at_a_rate_are_as_many_as_qwens(total: int, video_fps: float, fps: float) -> None:
    for most in (2, 8, 768):
        ours = len(chosen("fps", total, total / video_fps, most, fps))
        assert ours == qwen_count(total, video_fps, fps, most)


@pytest.mark.parametrize("total", [2, 3, 10, 59, 60, 1000])
@pytest.mark.parametrize("count", [2, 4, 8, 32])
def test_at_a_constant_rate_the_frames_are_those_of_qwen_vl_utils(total: int, count: int) -> None:
    for rate in (23.976, 25.0, 30.0):
        starts = (np.arange(total, dtype=np.float32) / np.float32(rate)).astype(np.float64)  # as coarse as decord's
        expected = np.rint(np.linspace(0, total - 1, count)).astype(int)
        indices = frame_indices(starts, count)
        halves = np.isclose(np.linspace(0, total - 1, count) % 1, 0.5)  # where float32 times leave the rounding open
        assert np.array_equal(indices[~halves], expected[~halves])
        assert (np.abs(indices - expected) <= halves).all()


def test_where_the_rate_varies_frames_are_evenly_spread_in_time() -> None:
    starts = np.concatenate([np.arange(10) * 0.04, 0.4 + np.arange(10) * 0.4])  # ten quick frames, ten slow ones
    indices = frame_indices(starts, 6)
    times = np.linspace(0, 4.0, 6)
    nearest = [int(np.argmin(np.abs(starts - time))) for time in times]
    assert indices.tolist() == nearest
    assert (indices >= 10).sum() == 5  # by number it would be three


@pytest.mark.parametrize("sampling", ["uniform", "fps"])
def test_the_count_is_even_and_within_what_there_is(sampling: str) -> None:
    for total in range(1, 40):
        for frames in (2, 8, 16):
            count = len(chosen(sampling, total, total / 10, frames, 3.0))
            assert count % 2 == 0
            assert 2 <= count <= max(2, min(frames, total))


def test_uniform_samples_the_requested_number_at_any_length() -> None:
    assert len(chosen("uniform", 1000, 3600.0, 8)) == 8


def test_rounded_durations_do_not_cost_a_frame() -> None:
    assert len(chosen("fps", 90, 2.9999999, 64)) == 6


def test_the_one_frame_of_a_video_is_repeated() -> None:
    assert chosen("uniform", 1, 0.04, 8) == [0, 0]


def test_seconds_per_grid_is_two_over_the_sampled_rate() -> None:
    assert seconds_per_grid(8, 4.0, 2) == pytest.approx(2 / (8 / 4.0))


def test_a_new_sampler_is_one_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = FrameSampler(lambda clip, frames, _: np.arange(min(frames, len(clip.starts) - len(clip.starts) % clip.span)), reads_fps=False)
    monkeypatch.setitem(FRAME_SAMPLERS, "first", first)
    assert chosen("first", 24, 1.0, 6) == [0, 1, 2, 3, 4, 5]
    (tmp_path / "video").write_bytes(b"video")

    def key(**settings: object) -> str:
        return video_key([tmp_path / "video"], FrameSettings(Preprocess.model_validate(settings), VISION))

    assert key(sampling="first") != key(sampling="uniform")
    assert key(sampling="first", fps=1.0) == key(sampling="first")
    assert key(sampling="fps", fps=1.0) != key(sampling="fps")
    with pytest.raises(ValueError, match="unknown frame sampler 'last'; known: uniform, fps, first"):
        key(sampling="last")
