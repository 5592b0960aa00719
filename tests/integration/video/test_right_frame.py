"""Compares sampled frames with FFmpeg's at the same times, for files that decoders disagree about and for generated files."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.errors import VideoError
from reelnest.settings import Preprocess, Validate
from reelnest.video.decoder import Decoder, Limits
from reelnest.video.frames import FrameSettings
from reelnest.video.patches import from_patches
from tests.support.generated_videos import (
    B_FRAMES,
    CODECS,
    FRAMES,
    OPTIONS,
    STEP,
    THUMBNAIL,
    TOLERANCE,
    Reference,
    encode,
    make,
    matrix,
    reference,
    run,
    with_edits,
)

DATA = Path(__file__).parents[2] / "data" / "video"
# From FFmpeg 5.1: `ffprobe -show_entries frame=best_effort_timestamp_time`, and `ffmpeg -vsync passthrough` with the filter
# `scale=iw*sar:ih,format=rgb24,scale=4:4:flags=area`: the frames' times and brightness, and a thumbnail of the first. Frames without a time
# are excluded.
FFMPEG = json.loads((DATA / "ffmpeg.json").read_text())


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(Limits.of(Validate(decode_timeout_seconds=30.0))) as started:
        yield started


def sampled(decoder: Decoder, file: Path, frames: int = 8, name: str = "auto") -> tuple[NDArray[np.uint8], str]:
    """The frames, (time, height, width, channel), and the decoder that read them."""
    settings = Preprocess(frames=frames, min_pixels=3136, max_pixels=50176, decoder=name)
    decoded = decoder.frames([file], FrameSettings(settings, VISION))
    return from_patches(decoded.rows, decoded.grid_thw, VISION), decoded.decoder


def thumbnails(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    small = [Image.fromarray(frame).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX) for frame in frames]
    return np.stack([np.asarray(image, dtype=np.float64).mean(axis=2) for image in small])


@pytest.mark.parametrize("name", sorted(FFMPEG))
def test_files_that_decoders_disagree_about_are_sampled_as_ffmpeg_shows_them(decoder: Decoder, name: str) -> None:
    expected = FFMPEG[name]
    info = decoder.inspect([DATA / name])
    assert [info.width, info.height] == expected["size"]
    frames, used = sampled(decoder, DATA / name, frames=min(8, len(expected["times"])))
    assert used == info.decoder == "pyav"  # decord reads each of them wrongly, or not at all
    greys = frames.mean(axis=(1, 2, 3))
    shown = Reference.of(np.array(expected["times"]), np.array(expected["grey"])[:, None, None])
    assert shown.largest_error(greys[:, None, None]) <= TOLERANCE
    first = np.asarray(Image.fromarray(frames[0]).resize((4, 4), Image.Resampling.BOX))
    np.testing.assert_allclose(first.astype(int), expected["first"], atol=8)


def test_hidden_frames_count_neither_as_frames_nor_as_time(decoder: Decoder) -> None:
    info = decoder.inspect([DATA / "gop_cut8to10.mp4"])
    assert (info.frames, info.seconds) == (52, 2.2)
    greys = sampled(decoder, DATA / "gop_cut8to10.mp4", frames=4)[0].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(greys, [156, 167, 179, 193], atol=1)


def test_a_sentinel_is_not_taken_for_a_duration(decoder: Decoder) -> None:
    assert decoder.inspect([DATA / "mpg.mpg"]).seconds == pytest.approx(2.0)
    assert decoder.inspect([DATA / "neg.mkv"]).seconds == pytest.approx(3.5, abs=0.1)


def test_an_animated_webp_is_read_with_its_own_times(decoder: Decoder, tmp_path: Path) -> None:
    info = decoder.inspect([DATA / "a.webp"])
    assert (info.frames, info.seconds, info.width, info.height, info.decoder) == (10, 1.0, 160, 120, "pillow")
    pictures = [Image.new("RGB", (56, 56), (grey,) * 3) for grey in (0, 50, 100, 150, 200)]
    file = tmp_path / "steps.webp"
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=[100, 100, 100, 700, 100], lossless=True)
    frames, _ = sampled(decoder, file, frames=4)  # at 0, 333, 667 and 1000 ms, the frames being at 0, 100, 200, 300 and 1000 ms
    assert frames.mean(axis=(1, 2, 3)).tolist() == [0, 150, 200, 200]
    assert decoder.inspect([file]).seconds == pytest.approx(1.1)


def test_decord_alone_rejects_files_that_it_would_read_wrongly(decoder: Decoder) -> None:
    with pytest.raises(VideoError, match=r"hidden, as after a cut.*ffmpeg -i gop_cut8to10\.mp4") as raised:
        sampled(decoder, DATA / "gop_cut8to10.mp4", name="decord")
    assert raised.value.reason == "no_decoder"


UNCUT = [
    *(("h264", container) for container in ("mp4", "mov", "mkv", "flv", "avi", "ts", "h264")),
    *(("h264-b", container) for container in ("mp4", "mkv", "ts", "mts")),
    *(("h264-one-key", container) for container in ("mp4", "ts")),
    *(("h264-open", container) for container in ("mp4", "mkv", "ts")),
    *(("h264-refresh", container) for container in ("mp4", "mkv")),
    *(("hevc", container) for container in ("mp4", "mkv", "ts")),
    *(("hevc-open", container) for container in ("mp4", "mkv")),
    *(("mpeg2", container) for container in ("mpg", "vob", "ts", "mkv")),
    *(("mpeg4", container) for container in ("mp4", "avi", "mkv")),
    ("vp8", "webm"),
    ("vp9", "webm"),
    ("vp9", "mp4"),
    ("theora", "ogv"),
    ("mjpeg", "mov"),
    ("mjpeg", "avi"),
    ("wmv2", "wmv"),
    ("h264-b", "asf"),
    ("av1", "avif"),
]


def encoded_file(ffmpeg: str, folder: Path, codec: str, container: str, rate: str = "25") -> Path:
    file = folder / f"{codec}.{container}"
    encode(ffmpeg, file, *CODECS[codec], *OPTIONS.get(container, ()), rate=rate)
    return file


def error_of(ffmpeg: str, file: Path, frames: NDArray[np.uint8]) -> float:
    expected = reference(ffmpeg, file)
    assert expected is not None
    return expected.largest_error(thumbnails(frames))


@pytest.mark.parametrize(("codec", "container"), UNCUT)
def test_generated_files_are_sampled_as_ffmpeg_shows_them(
    decoder: Decoder, ffmpeg: str, tmp_path: Path, codec: str, container: str
) -> None:
    file = encoded_file(ffmpeg, tmp_path, codec, container)
    frames, _ = sampled(decoder, file)
    assert error_of(ffmpeg, file, frames) <= TOLERANCE


@pytest.mark.parametrize(("codec", "container"), [("h264", "mp4"), ("h264", "mkv"), ("vp9", "webm")])
@pytest.mark.parametrize("rate", ["10", "24000/1001"])
def test_other_rates_are_sampled_as_ffmpeg_shows_them(
    decoder: Decoder, ffmpeg: str, tmp_path: Path, codec: str, container: str, rate: str
) -> None:
    file = encoded_file(ffmpeg, tmp_path, codec, container, rate)
    frames, used = sampled(decoder, file)
    assert used == "decord"
    assert error_of(ffmpeg, file, frames) <= TOLERANCE


@pytest.mark.parametrize("codec", ["h264", "h264-b", "hevc"])
@pytest.mark.parametrize("container", ["mp4", "mov", "mkv", "ts"])
def test_a_cut_without_re_encoding_is_sampled_as_ffmpeg_shows_it(
    decoder: Decoder, ffmpeg: str, tmp_path: Path, codec: str, container: str
) -> None:
    source, cut = encoded_file(ffmpeg, tmp_path, codec, "mp4"), tmp_path / f"cut.{container}"
    run(ffmpeg, "-v", "error", "-ss", "0.5", "-i", str(source), "-t", "0.6", "-c", "copy", str(cut))
    frames, _ = sampled(decoder, cut, frames=6)
    assert error_of(ffmpeg, cut, frames) <= TOLERANCE


@pytest.mark.parametrize("codec", ["h264", "hevc-open"])
def test_the_parts_of_an_edit_list_are_shown_one_after_the_other(decoder: Decoder, ffmpeg: str, tmp_path: Path, codec: str) -> None:
    source, file = encoded_file(ffmpeg, tmp_path, codec, "mp4"), tmp_path / "edits.mp4"
    with_edits(source, file, [(0.2, 0.32), (0.92, 0.32)])
    info = decoder.inspect([file])
    assert (info.frames, info.seconds) == (16, pytest.approx(0.64, abs=0.05))
    numbers = (sampled(decoder, file, frames=16)[0].mean(axis=(1, 2, 3)) - 6) / STEP
    assert numbers.round().tolist() == [*range(5, 13), *range(23, 31)]


@pytest.mark.parametrize("name", ["auto", "pyav"])
def test_an_edit_list_whose_parts_have_the_same_times_is_refused(decoder: Decoder, ffmpeg: str, tmp_path: Path, name: str) -> None:
    source, file = encoded_file(ffmpeg, tmp_path, "h264-b", "mp4"), tmp_path / "edits.mp4"
    with_edits(source, file, [(0.08, 0.32), (0.44, 0.32)])
    with pytest.raises(VideoError, match=r"edits\.mp4: .*(hidden|edit list).*ffmpeg -i edits\.mp4") as raised:
        sampled(decoder, file, name=name)
    assert raised.value.reason == "no_decoder"


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_a_varying_rate_is_sampled_as_ffmpeg_shows_it(decoder: Decoder, ffmpeg: str, tmp_path: Path, container: str) -> None:
    file = tmp_path / f"varying.{container}"
    encode(ffmpeg, file, *CODECS["h264-b"], "-vf", "setpts='PTS+floor(N/8)*0.3/TB'", "-vsync", "vfr")
    frames, _ = sampled(decoder, file)
    assert error_of(ffmpeg, file, frames) <= TOLERANCE


@pytest.mark.parametrize("codec", ["mpeg1", "mpeg2"])
def test_reordered_frames_are_counted_in_a_format_without_presentation_times(
    decoder: Decoder, ffmpeg: str, tmp_path: Path, codec: str
) -> None:
    file = encoded_file(ffmpeg, tmp_path, codec, "asf")
    frames, _ = sampled(decoder, file, frames=FRAMES)
    assert ((frames.mean(axis=(1, 2, 3)) - 6) / STEP).round().tolist() == list(range(FRAMES))


def test_a_joined_transport_stream_keeps_its_rate(decoder: Decoder, ffmpeg: str, tmp_path: Path) -> None:
    file = encoded_file(ffmpeg, tmp_path, "h264-b", "ts")
    file.write_bytes(file.read_bytes() * 2)
    info = decoder.inspect([file])
    assert (info.frames, info.fps) == (2 * FRAMES, pytest.approx(25))
    greys = sampled(decoder, file, frames=4)[0].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(greys, [6, 6 + STEP * 22, 6 + STEP * 11, 6 + STEP * 33], atol=TOLERANCE)


@pytest.mark.parametrize("turn", ["90", "180", "270"])
def test_a_turned_video_is_shown_upright(decoder: Decoder, ffmpeg: str, tmp_path: Path, turn: str) -> None:
    plain, turned = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    run(ffmpeg, "-v", "error", "-f", "lavfi", "-i", "testsrc=s=112x56:d=0.4:r=10", "-pix_fmt", "yuv420p", str(plain))
    run(ffmpeg, "-v", "error", "-i", str(plain), "-c", "copy", "-metadata:s:v:0", f"rotate={turn}", str(turned))
    upright = run(ffmpeg, "-v", "error", "-i", str(turned), "-frames:v", "1", "-pix_fmt", "rgb24", "-f", "rawvideo", "-").stdout
    size = (112, 56) if turn == "180" else (56, 112)
    frames, _ = sampled(decoder, turned, frames=2)
    expected = np.asarray(Image.frombytes("RGB", size, upright).resize(frames.shape[2:0:-1], Image.Resampling.BICUBIC))
    assert np.abs(frames[0].astype(int) - expected).mean() <= TOLERANCE


@pytest.mark.parametrize("b_frames", ["0", "2"])
def test_the_pixel_aspect_of_the_codec_counts_if_the_container_has_none(
    decoder: Decoder, ffmpeg: str, tmp_path: Path, b_frames: str
) -> None:
    file, square = tmp_path / "wide.mov", tmp_path / "square.mov"
    for name, aspect in ((file, "2"), (square, "1")):
        options = ["-pix_fmt", "yuv420p", "-bf", b_frames, "-vf", f"setsar={aspect}"]
        run(ffmpeg, "-v", "error", "-f", "lavfi", "-i", "testsrc=s=56x56:d=0.8:r=10", *options, str(name))
        name.write_bytes(name.read_bytes().replace(b"pasp", b"free"))
    assert [(info.width, info.height) for info in map(decoder.inspect, ([file], [square]))] == [(112, 56), (56, 56)]
    assert sampled(decoder, file)[0].shape[1:3] == (56, 112)
    with pytest.raises(VideoError, match="its pixels are not square") as raised:
        sampled(decoder, file, name="decord")
    assert raised.value.reason == "no_decoder"


def test_decord_and_pyav_give_the_same_rows_of_ordinary_files(decoder: Decoder, ffmpeg: str, tmp_path: Path) -> None:
    file = tmp_path / "test.mp4"
    run(ffmpeg, "-v", "error", "-f", "lavfi", "-i", "testsrc=s=160x120:d=2:r=24", "-pix_fmt", "yuv420p", *B_FRAMES, str(file))
    (decord_frames, first), (pyav_frames, second) = (sampled(decoder, file, name=name) for name in ("decord", "pyav"))
    assert (first, second) == ("decord", "pyav")
    assert np.array_equal(decord_frames, pyav_frames)


def test_of_two_exact_decoders_auto_chooses_the_one_that_decodes_fewer_frames(decoder: Decoder, ffmpeg: str, tmp_path: Path) -> None:
    choices = {}
    for codec in ("h264", "h264-b"):
        file = encoded_file(ffmpeg, tmp_path, codec, "mp4")
        choices[codec] = [sampled(decoder, file, name=name)[1] for name in ("auto", "decord", "pyav")]
    assert choices == {"h264": ["decord", "decord", "pyav"], "h264-b": ["pyav", "decord", "pyav"]}


@pytest.mark.parametrize("name", ["h264-earlier-25.flv", "theora-earlier-25.ogv"])
def test_negative_times_that_are_stored_as_huge_ones(decoder: Decoder, ffmpeg: str, tmp_path: Path, name: str) -> None:
    file = make(ffmpeg, next(variant for variant in matrix() if variant.name == name), tmp_path)
    assert file is not None
    if name.endswith("ogv"):
        assert error_of(ffmpeg, file, sampled(decoder, file)[0]) <= TOLERANCE
        return
    with pytest.raises(VideoError, match=r"jump by 2\.15e\+06 s") as raised:
        sampled(decoder, file)
    assert raised.value.reason == "bad_times"
    remedy = str(raised.value).partition("ffmpeg -i IN ")[2].split()[:-1]
    run(ffmpeg, "-v", "error", "-i", str(file), *remedy, str(tmp_path / "out.mp4"))
    assert error_of(ffmpeg, file, sampled(decoder, tmp_path / "out.mp4")[0]) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_every_file_of_the_matrix_is_sampled_as_ffmpeg_shows_it_or_refused(
    decoder: Decoder, ffmpeg: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], codec: str
) -> None:
    """Prints the counts; 840 files in all. Files in which ffmpeg finds no frame must be refused too."""
    results: dict[str, str] = {}
    for variant in matrix():
        if variant.codec != codec:
            continue
        file = make(ffmpeg, variant, tmp_path)
        if file is None:
            continue
        shown = reference(ffmpeg, file)
        try:
            frames, used = sampled(decoder, file)
            is_right = shown is not None and shown.largest_error(thumbnails(frames)) <= TOLERANCE
            results[file.name] = f"right, {used}" if is_right else "wrong"
        except VideoError as error:
            results[file.name] = f"refused, {error.reason}" + (", as by ffmpeg" if shown is None else "")
    with capsys.disabled():
        print(f"\n{codec}: {len(results)} files: {dict(Counter(results.values()))}")  # noqa: T201 (the test's report)
    assert [name for name, result in results.items() if result == "wrong"] == []
    assert len(results) > 15
    assert sum("refused" in result and "as by" not in result for result in results.values()) <= 1
