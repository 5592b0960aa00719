import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.errors import VideoError
from reelnest.settings import Preprocess, Validate
from reelnest.video.decoder import Decoder, Limits
from reelnest.video.frames import FrameSettings
from reelnest.video.patches import from_patches

MakeVideo = Callable[..., Path]
SMALL = FrameSettings(Preprocess(frames=4, min_pixels=3136, max_pixels=3136), VISION)


def reason_of(limits: Limits, *files: Path) -> str:
    with Decoder(limits) as decoder, pytest.raises(VideoError) as raised:
        decoder.inspect(files)
    assert all(file.name in str(raised.value) for file in files[:1])
    # Reports must be the same in every checkout.
    assert str(files[0].parent) not in str(raised.value)
    return raised.value.reason


def test_inspection_returns_length_rate_and_size(make_video: MakeVideo, limits: Limits) -> None:
    with Decoder(limits) as decoder:
        info = decoder.inspect([make_video(frames=50, size=(96, 64))])
    assert (info.frames, info.width, info.height) == (50, 96, 64)
    assert info.seconds == pytest.approx(2.0)
    assert info.fps == pytest.approx(25.0)


@pytest.mark.parametrize(
    ("name", "codec"), [("v.mp4", "libx264"), ("v.mkv", "libx264"), ("v.webm", "libvpx-vp9"), ("v.avi", "mpeg4"), ("v.mov", "libx264")]
)
def test_the_sampled_frames_are_the_requested_ones(make_video: MakeVideo, limits: Limits, name: str, codec: str) -> None:
    video = make_video(name, frames=61, codec=codec)
    with Decoder(limits) as decoder:
        frames = decoder.frames([video], SMALL)
    pictures = from_patches(frames.rows, frames.grid_thw, VISION)
    assert pictures.shape == (4, 56, 56, 3)
    brightness = pictures.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(brightness, [0, 80, 160, 240], atol=6)  # frames 0, 20, 40, 60
    assert frames.seconds_per_grid == pytest.approx(2 / (4 / (61 / 25)), rel=1e-3)


def test_a_varying_frame_rate_is_sampled_by_time(make_video: MakeVideo, limits: Limits) -> None:
    times = [number * 40 for number in range(10)] + [400 + number * 400 for number in range(10)]
    video = make_video(frames=20, times=times, step=10)
    with Decoder(limits) as decoder:
        frames = decoder.frames([video], FrameSettings(Preprocess(frames=6, min_pixels=3136, max_pixels=3136), VISION))
    brightness = from_patches(frames.rows, frames.grid_thw, VISION).mean(axis=(1, 2, 3))
    nearest = [min(range(20), key=lambda number: abs(times[number] - expected)) for expected in np.linspace(0, 4000, 6)]
    np.testing.assert_allclose(brightness, [number * 10 for number in nearest], atol=6)


def test_a_video_of_one_frame_is_repeated(make_video: MakeVideo, limits: Limits) -> None:
    with Decoder(limits) as decoder:
        frames = decoder.frames([make_video(frames=1)], SMALL)
    pictures = from_patches(frames.rows, frames.grid_thw, VISION)
    assert frames.grid_thw == (1, 4, 4)
    assert np.array_equal(pictures[0], pictures[1])


def test_a_folder_of_frames_is_a_video(tmp_path: Path, limits: Limits) -> None:
    files = []
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (56, 56, 3), dtype=np.uint8)
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(files[-1])
    with Decoder(limits) as decoder:
        info = decoder.inspect(files)
        frames = decoder.frames(files, FrameSettings(Preprocess(frames=2, min_pixels=3136, max_pixels=3136), VISION))
    assert (info.frames, info.seconds) == (6, 3.0)
    pictures = from_patches(frames.rows, frames.grid_thw, VISION)
    assert np.array_equal(pictures[0], np.asarray(Image.open(files[0])))
    assert np.array_equal(pictures[1], np.asarray(Image.open(files[-1])))


def test_transparent_pixels_become_white_as_with_qwen(tmp_path: Path, limits: Limits) -> None:
    Image.new("RGBA", (56, 56), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    with Decoder(limits) as decoder:
        assert (decoder.frames([tmp_path / "clear.png"], SMALL).rows == 255).all()


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.webm", "v.avi", "faststart.mp4"])
def test_a_cut_off_file_is_truncated_wherever_it_is_cut(make_video: MakeVideo, limits: Limits, name: str) -> None:
    options = {"movflags": "faststart"} if name.startswith("faststart") else {}
    codec = {"v.webm": "libvpx", "v.avi": "mpeg4"}.get(name, "libx264")
    video = make_video(name, frames=30, codec=codec, **options)
    data = video.read_bytes()
    reasons = []
    with Decoder(limits) as decoder:
        assert decoder.inspect([video]).frames == 30
        for share in (0.3, 0.6, 0.9, 0.98):
            video.write_bytes(data[: int(len(data) * share)])
            with pytest.raises(VideoError) as raised:
                decoder.inspect([video])
            reasons.append(raised.value.reason)
    assert reasons == ["truncated"] * 4


def test_a_file_whose_frames_are_noise_is_damaged(make_video: MakeVideo, limits: Limits) -> None:
    video = make_video(frames=60)
    data = bytearray(video.read_bytes())
    start = data.index(b"mdat") + 700
    end = data.rindex(b"moov") - 4
    data[start:end] = np.random.default_rng(0).integers(0, 256, end - start, dtype=np.uint8).tobytes()
    video.write_bytes(data)
    assert reason_of(limits, video) == "damaged"


def test_files_that_are_not_videos_are_rejected(tmp_path: Path, limits: Limits) -> None:
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n/etc/hostname\n")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason_of(limits, tmp_path / "text.mp4") == "not_a_video"
    assert reason_of(limits, tmp_path / "empty.mp4") == "empty"
    assert reason_of(limits, tmp_path / "list.mp4") == "not_a_video"
    assert reason_of(limits, tmp_path / "pipe.mp4") == "not_a_file"
    assert reason_of(limits, tmp_path / "nothing.mp4") == "missing"


def test_a_cut_off_image_is_truncated(tmp_path: Path, limits: Limits) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.jpg")
    Image.fromarray(pixels).save(tmp_path / "1.jpg")
    data = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(data[: len(data) // 2])
    with Decoder(limits) as decoder, pytest.raises(VideoError, match=r"1\.jpg") as raised:
        decoder.inspect([tmp_path / "0.jpg", tmp_path / "1.jpg"])
    assert raised.value.reason == "truncated"


def test_a_video_without_frames_is_refused(make_video: MakeVideo, limits: Limits) -> None:
    video = make_video("none.mp4", frames=0, movflags="empty_moov+frag_keyframe")
    assert video.stat().st_size > 100
    assert reason_of(limits, video) in ("no_frames", "not_a_video")


def test_a_video_of_a_hundred_thousand_frames_is_above_the_limit(make_video: MakeVideo, tmp_path: Path) -> None:
    short = make_video("short.mkv", frames=1, size=(16, 16))
    long = tmp_path / "long.mkv"
    with av.open(str(short)) as source, av.open(str(long), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        data = bytes(next(packet for packet in source.demux(video=0) if packet.size))
        for number in range(100_000):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number * 40, number * 40, True
            target.mux(packet)
    assert reason_of(Limits.of(Validate()), long) == "too_many_frames"


def test_limits_are_checked(make_video: MakeVideo, limits: Limits) -> None:
    video = make_video(frames=50)
    assert reason_of(replace(limits, frames=49), video) == "too_many_frames"
    assert reason_of(replace(limits, seconds=1.9), video) == "too_long"
    assert reason_of(replace(limits, megabytes=0.001), video) == "too_large"


@pytest.mark.parametrize("sampling", [{"frames": 4}, {"sampling": "fps", "fps": 3.0, "frames": 8}], ids=str)
def test_inspecting_and_sampling_in_one_pass_returns_what_each_returns_alone(limits: Limits, sampling: dict[str, Any]) -> None:
    settings = FrameSettings(Preprocess.model_validate({"min_pixels": 3136, "max_pixels": 12544, **sampling}), VISION)
    files = sorted((Path(__file__).parents[2] / "data" / "video").glob("*.[!j]*"))
    both = []
    with Decoder(limits) as decoder:
        for file in files:
            info, frames = decoder.inspect_and_sample([file], settings)
            alone = decoder.frames([file], settings)
            assert info == decoder.inspect([file])
            if frames is None:
                continue
            both.append(file.name)
            assert (frames.grid_thw, frames.seconds_per_grid, frames.decoder) == (alone.grid_thw, alone.seconds_per_grid, alone.decoder)
            np.testing.assert_array_equal(frames.rows, alone.rows, err_msg=file.name)
    assert len(both) >= 0.8 * len(files), both


def test_a_video_is_good_without_its_sampled_frames(limits: Limits, make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    def request(self: Decoder, request: dict[str, Any], files: Sequence[Path], segment: Any) -> Any:
        if "settings" in request:
            raise VideoError("damaged", "a sampled frame is damaged")
        return original(self, request, files, segment)

    original = Decoder._request
    monkeypatch.setattr(Decoder, "_request", request)
    with Decoder(limits) as decoder:
        info, frames = decoder.inspect_and_sample([make_video(frames=24)], SMALL)
    assert info.frames == 24
    assert frames is None


def test_a_video_in_a_tar_file_is_decoded_as_the_file_is(make_video: MakeVideo, limits: Limits, tmp_path: Path) -> None:
    file = make_video("a.mp4")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(file, "clips/a.mp4")
        tar.add(file, "clips/b.mp4")
    member = tmp_path / "x.tar" / "clips" / "b.mp4"
    with Decoder(limits) as decoder:
        assert decoder.inspect([member]) == decoder.inspect([file])
        assert np.array_equal(decoder.frames([member], SMALL).rows, decoder.frames([file], SMALL).rows)
    small = replace(limits, megabytes=file.stat().st_size / 2e6)
    assert reason_of(small, member) == "too_large"


def test_the_main_picture_or_the_animation_of_an_avif_file_is_read(limits: Limits, tmp_path: Path) -> None:
    still, animation, tiles = (tmp_path / name for name in ("still.avif", "animation.avif", "tiles.avif"))
    pictures = [Image.new("RGBA", (56, 56), (grey, grey, grey, 128)) for grey in (10, 80, 150, 220)]
    pictures[0].save(still)  # its transparency is a second picture
    pictures[0].save(animation, save_all=True, append_images=pictures[1:], duration=[100, 100, 100, 700])
    content = bytearray(still.read_bytes())
    content[content.index(b"pitm") + 9] = 9  # no picture has this number, as if it were made from tiles
    tiles.write_bytes(content)
    with Decoder(limits) as decoder:
        frames = decoder.frames([animation], SMALL)
        seconds = decoder.inspect([animation]).seconds
        assert decoder.inspect([still]).frames == 1
    greys = from_patches(frames.rows, frames.grid_thw, VISION).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(greys, [10, 80, 150, 220], atol=2)
    assert seconds == pytest.approx(1.0)
    assert reason_of(limits, tiles) == "not_a_video"
