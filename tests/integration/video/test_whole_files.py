"""Files that are cut, joined or followed by other bytes, and files whose kind or colours are easily mistaken."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.errors import VideoError
from reelnest.settings import Preprocess, Validate
from reelnest.video.decoder import Decoder, Limits
from reelnest.video.frames import FrameSettings
from reelnest.video.patches import from_patches
from tests.support.generated_videos import B_FRAMES, CODECS, FRAMES, STEP, TOLERANCE, encode, run

ENCODERS = {
    "mp4": CODECS["h264"],
    "mkv": CODECS["h264-b"],
    "flv": CODECS["h264"],
    "avi": CODECS["mpeg4"],
    "ts": CODECS["h264-b"],
    "gif": ("gif", "-pix_fmt", "gray"),
}
FOUR_FRAMES = FrameSettings(Preprocess(frames=4, min_pixels=3136, max_pixels=12544), VISION)
H264 = ("libx264", "-bf", "0")
APPENDED = {"zeros": bytes(5000), "text": b"trailing\n" * 500, "noise": np.random.default_rng(0).bytes(5000)}


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(Limits.of(Validate(decode_timeout_seconds=30.0))) as started:
        yield started


def encoded_file(ffmpeg: str, folder: Path, kind: str) -> Path:
    encode(ffmpeg, folder / f"a.{kind}", *ENCODERS[kind])
    return folder / f"a.{kind}"


def greys(decoder: Decoder, file: Path) -> NDArray[np.float64]:
    decoded = decoder.frames([file], FOUR_FRAMES)
    return from_patches(decoded.rows, decoded.grid_thw, VISION).mean(axis=(1, 2, 3))


def refusal(decoder: Decoder, file: Path) -> VideoError:
    with pytest.raises(VideoError) as raised:
        decoder.inspect([file])
    return raised.value


@pytest.mark.parametrize("appended", APPENDED.values(), ids=APPENDED)
@pytest.mark.parametrize("kind", ENCODERS)
def test_bytes_after_the_end_of_a_file_are_ignored(decoder: Decoder, ffmpeg: str, tmp_path: Path, kind: str, appended: bytes) -> None:
    file = encoded_file(ffmpeg, tmp_path, kind)
    file.write_bytes(file.read_bytes() + appended)
    assert decoder.inspect([file]).frames == FRAMES
    np.testing.assert_allclose(greys(decoder, file), [6, 6 + STEP * 11, 6 + STEP * 22, 6 + STEP * 33], atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["gif", "flv"])
def test_a_file_that_lists_no_size_is_truncated_wherever_it_is_cut(decoder: Decoder, ffmpeg: str, tmp_path: Path, kind: str) -> None:
    content = encoded_file(ffmpeg, tmp_path, kind).read_bytes()
    for share in (0.3, 0.55, 0.8, 0.97):
        (tmp_path / f"cut.{kind}").write_bytes(content[: int(len(content) * share)])
        assert refusal(decoder, tmp_path / f"cut.{kind}").reason == "truncated", share


def test_a_gif_without_its_final_byte_is_complete(decoder: Decoder, ffmpeg: str, tmp_path: Path) -> None:
    file = encoded_file(ffmpeg, tmp_path, "gif")
    file.write_bytes(file.read_bytes()[:-1])
    assert decoder.inspect([file]).frames == FRAMES


def test_a_joined_matroska_file_keeps_its_rate(decoder: Decoder, ffmpeg: str, tmp_path: Path) -> None:
    file = encoded_file(ffmpeg, tmp_path, "mkv")
    file.write_bytes(file.read_bytes() * 2)
    info = decoder.inspect([file])
    assert (info.frames, info.fps) == (2 * FRAMES, pytest.approx(25))
    np.testing.assert_allclose(greys(decoder, file), [6, 6 + STEP * 22, 6 + STEP * 11, 6 + STEP * 33], atol=TOLERANCE)


@pytest.mark.parametrize(("first", "second"), [("5", "500"), ("500", "5")])
def test_the_remedy_for_joined_transport_streams_is_right(decoder: Decoder, ffmpeg: str, tmp_path: Path, first: str, second: str) -> None:
    file, joined = encoded_file(ffmpeg, tmp_path, "mp4"), tmp_path / "joined.ts"
    for offset in (first, second):
        run(ffmpeg, "-v", "error", "-i", str(file), "-c", "copy", "-output_ts_offset", offset, str(tmp_path / f"{offset}.ts"))
    joined.write_bytes((tmp_path / f"{first}.ts").read_bytes() + (tmp_path / f"{second}.ts").read_bytes())
    remedy = str(refusal(decoder, joined)).partition("ffmpeg -i IN ")[2].split()[:-1]
    run(ffmpeg, "-v", "error", "-i", str(joined), *remedy, str(tmp_path / "out.mp4"))
    assert decoder.inspect([tmp_path / "out.mp4"]).frames == 2 * FRAMES


def test_a_stream_of_jpeg_images_is_a_video_and_a_photo_with_a_smaller_one_is_not(decoder: Decoder, ffmpeg: str, tmp_path: Path) -> None:
    stream, photo = tmp_path / "a.mjpeg", tmp_path / "a.jpg"
    encode(ffmpeg, stream, *CODECS["mjpeg"])
    info = decoder.inspect([stream])
    assert (info.frames, info.fps) == (FRAMES, pytest.approx(25))
    np.testing.assert_allclose(greys(decoder, stream), [6, 6 + STEP * 11, 6 + STEP * 22, 6 + STEP * 33], atol=TOLERANCE)
    for size in ("64x48", "32x24"):
        run(ffmpeg, "-v", "error", "-i", str(stream), "-frames:v", "1", "-s", size, str(tmp_path / f"{size}.jpg"))
    photo.write_bytes((tmp_path / "64x48.jpg").read_bytes() + (tmp_path / "32x24.jpg").read_bytes())
    info = decoder.inspect([photo])
    assert (info.frames, info.width, info.decoder) == (1, 64, "pillow")


@pytest.mark.parametrize("options", [H264, ("libx264", *B_FRAMES)], ids=["decord", "pyav"])
def test_a_reserved_colour_matrix_is_ignored(decoder: Decoder, ffmpeg: str, tmp_path: Path, options: tuple[str, ...]) -> None:
    file = tmp_path / "a.mp4"
    encode(ffmpeg, file, *options, "-bsf:v", "h264_metadata=matrix_coefficients=3")
    np.testing.assert_allclose(greys(decoder, file), [6, 6 + STEP * 11, 6 + STEP * 22, 6 + STEP * 33], atol=TOLERANCE)


def test_colours_that_cannot_be_converted_are_named_with_a_remedy(decoder: Decoder, ffmpeg: str, tmp_path: Path) -> None:
    file, out = tmp_path / "a.mp4", tmp_path / "out.mp4"
    encode(ffmpeg, file, *H264, "-bsf:v", "h264_metadata=matrix_coefficients=8")
    error = refusal(decoder, file)
    assert (error.reason, "YCgCo" in str(error)) == ("bad_colours", True)
    run(ffmpeg, "-v", "error", "-i", str(file), *str(error).partition("ffmpeg -i IN ")[2].split()[:-1], str(out))
    assert decoder.inspect([out]).frames == FRAMES


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_encrypted_frames_are_named(decoder: Decoder, ffmpeg: str, tmp_path: Path, codec: str) -> None:
    file = tmp_path / "a.mp4"
    key = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "76" * 16, "-encryption_kid", "a7" * 16)
    encode(ffmpeg, file, *CODECS[codec], *key)
    assert refusal(decoder, file).reason == "encrypted"


def test_sound_with_a_cover_picture_is_named_for_what_it_is(decoder: Decoder, ffmpeg: str, tmp_path: Path) -> None:
    cover, file = tmp_path / "cover.png", tmp_path / "a.m4a"
    run(ffmpeg, "-v", "error", "-f", "lavfi", "-i", "color=red:s=64x64", "-frames:v", "1", str(cover))
    inputs = ("-f", "lavfi", "-i", "sine=d=1", "-i", str(cover), "-map", "0", "-map", "1")
    run(ffmpeg, "-v", "error", *inputs, "-c:v", "copy", "-disposition:v", "attached_pic", str(file))
    error = refusal(decoder, file)
    assert (error.reason, "only a cover picture and audio" in str(error)) == ("not_a_video", True)
