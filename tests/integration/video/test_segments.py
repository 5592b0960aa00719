"""Segments: the sampled frames are those that FFmpeg shows at these times, and other times are errors."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.errors import VideoError
from reelnest.records.formats import Video
from reelnest.records.segments import Segment
from reelnest.serving.windows import windows_of
from reelnest.settings import Index, Preprocess, Validate
from reelnest.video.decoder import Decoder, Limits
from reelnest.video.frames import FrameSettings
from reelnest.video.patches import from_patches
from tests.support.generated_videos import THUMBNAIL, TOLERANCE, Variant, make, reference, run

ALL_FRAMES = FrameSettings(Preprocess(frames=64, min_pixels=3136, max_pixels=50176), VISION)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(Limits.of(Validate(decode_timeout_seconds=30.0))) as started:
        yield started


def thumbnails(decoder: Decoder, file: Path, segment: Segment | None) -> NDArray[np.float64]:
    decoded = decoder.frames([file], ALL_FRAMES, segment)
    frames = from_patches(decoded.rows, decoded.grid_thw, VISION)
    small = [Image.fromarray(frame).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX) for frame in frames]
    return np.stack([np.asarray(image, dtype=np.float64).mean(axis=2) for image in small])


def shown(times: NDArray[np.float64], segment: Segment) -> NDArray[np.int64]:
    """The frames of FFmpeg that a player shows from the start to the end: a frame is visible until the next one."""
    ends = np.append(times[1:], np.inf)
    end = np.inf if segment.end is None else segment.end
    return np.flatnonzero((ends > segment.start + 1e-3) & (times < end - 1e-3))


@pytest.mark.parametrize("segment", [Segment(0.0, 0.2), Segment(0.28, 0.6), Segment(0.3, 0.62), Segment(0.31, None)], ids=str)
@pytest.mark.parametrize(
    "variant",
    [
        Variant("h264", "mp4"),  # decord
        Variant("h264-b", "mp4", "seek"),  # hidden frames before the cut
        Variant("h264-b", "mkv", rate="varying"),
        Variant("h264-b", "mkv", "earlier"),  # the first times are negative
        Variant("h264-open", "ts"),  # the first time stamp is 1.4 s
        Variant("mpeg2", "mpg"),
        Variant("vp9", "webm", "later"),  # the first time stamp is 1.7 s
        Variant("h264-b", "avi"),  # no time stamps
    ],
    ids=lambda variant: variant.name,
)
def test_the_frames_are_those_that_ffmpeg_shows_at_these_times(
    decoder: Decoder, ffmpeg: str, generated: Path, variant: Variant, segment: Segment
) -> None:
    file = make(ffmpeg, variant, generated)
    expected = reference(ffmpeg, file) if file is not None else None
    assert file is not None
    assert expected is not None
    numbers = shown(expected.times, segment)
    info = decoder.inspect([file], segment=segment)
    assert info.frames == len(numbers)
    assert info.seconds == pytest.approx((segment.end or expected.times[-1] + np.diff(expected.times)[-1]) - segment.start, abs=0.07)
    sampled = thumbnails(decoder, file, segment)
    errors = np.abs(expected.frames[numbers][:, None] - sampled[None]).mean(axis=(2, 3))  # (shown, sampled)
    # The number of sampled frames is even, so a frame of an odd number may be left out, and a single one is repeated.
    assert len(sampled) == max(2, len(numbers) - len(numbers) % 2)
    assert errors.min(axis=0).max() <= TOLERANCE  # nothing else is sampled
    assert max(errors[0, 0], errors[-1, -1]) <= TOLERANCE  # from the first to the last


@pytest.mark.parametrize("codec", ["mpeg1", "mpeg2"])
def test_a_cut_that_has_lost_its_time_stamps_has_no_segments(decoder: Decoder, ffmpeg: str, generated: Path, codec: str) -> None:
    file = make(ffmpeg, Variant(codec, "mpg", "skip"), generated)
    expected = reference(ffmpeg, file) if file is not None else None
    assert file is not None
    assert expected is not None
    with pytest.raises(VideoError, match=r"no time stamps, so it has no segments; convert it: ffmpeg -i IN out\.mp4") as raised:
        decoder.inspect([file], segment=Segment(0.0, 0.2))
    assert raised.value.reason == "bad_times"
    sampled = thumbnails(decoder, file, None)
    errors = np.abs(expected.frames[:, None] - sampled[None]).mean(axis=(2, 3))
    assert errors.min(axis=0).max() <= TOLERANCE
    assert decoder.inspect([file]).frames == len(expected.frames)


def test_times_count_from_the_sound_that_begins_before_the_frames(decoder: Decoder, ffmpeg: str, generated: Path) -> None:
    frames = make(ffmpeg, Variant("h264", "mp4"), generated)
    file = generated / "sound.mkv"
    sound = ("-f", "lavfi", "-i", "sine=duration=2")
    run(ffmpeg, "-v", "error", "-y", *sound, "-itsoffset", "0.5", "-i", str(frames), "-map", "0", "-map", "1", "-c:v", "copy", str(file))
    expected = reference(ffmpeg, file)
    assert expected is not None
    assert expected.times[0] == pytest.approx(0.5, abs=0.01)
    segment = Segment(0.9, 1.3)
    sampled = thumbnails(decoder, file, segment)
    numbers = shown(expected.times, segment)
    np.testing.assert_allclose(sampled.mean(axis=(1, 2))[[0, -1]], expected.frames.mean(axis=(1, 2))[numbers[[0, -1]]], atol=TOLERANCE)
    with pytest.raises(VideoError, match=r"sound\.mkv: no frame is shown before 0\.5\d* s, after the segment"):
        decoder.inspect([file], segment=Segment(0.1, 0.4))


@pytest.mark.parametrize(("delay", "starts"), [("0", [0, 1, 2, 3]), ("1.2", [1, 2, 3, 4]), ("2.3", [2, 3, 4, 5])])
def test_the_windows_of_a_video_end_with_it_when_its_sound_begins_before(
    ffmpeg: str, generated: Path, tmp_path: Path, delay: str, starts: list[float]
) -> None:
    frames, file = make(ffmpeg, Variant("h264", "mp4", rate="10"), generated), tmp_path / "a.mkv"  # 3.4 s
    sound = ("-f", "lavfi", "-i", "sine=duration=7")
    run(ffmpeg, "-v", "error", *sound, "-itsoffset", delay, "-i", str(frames), "-map", "0", "-map", "1", "-c:v", "copy", str(file))
    limits, settings = Limits.of(Validate(decode_timeout_seconds=30.0)), Index(window_seconds=1.0)
    video = Video("a", file.name, (), {}, 1)
    cut = windows_of([video], tmp_path, settings, limits, tmp_path / "known", "auto")["a"]
    segments = [window.segment for window in cut if window.segment is not None]
    assert [segment.start for segment in segments] == starts
    assert segments[-1].end == pytest.approx(float(delay) + 3.4, abs=0.02)
    with Decoder(limits) as decoder:
        assert all(decoder.inspect([file], segment=segment).frames for segment in segments)


def test_a_frame_that_is_shown_for_long_is_in_each_segment_of_that_time(decoder: Decoder, tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (56, 56), (grey,) * 3) for grey in (0, 100, 200)]
    file = tmp_path / "slow.webp"
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=[1000, 8000, 1000], lossless=True)
    assert decoder.inspect([file], segment=Segment(3.0, 5.0)).seconds == 2.0
    decoded = decoder.frames([file], ALL_FRAMES, Segment(3.0, 5.0))
    assert set(np.unique(decoded.rows)) == {100}
    assert decoded.seconds_per_grid == 2.0


def test_the_segment_of_all_times_has_the_frames_of_the_file(decoder: Decoder, ffmpeg: str, generated: Path) -> None:
    file = make(ffmpeg, Variant("h264", "mp4"), generated)
    assert file is not None
    np.testing.assert_array_equal(thumbnails(decoder, file, Segment(0.0, None)), thumbnails(decoder, file, None))


def test_times_after_the_end_are_errors_that_say_how_long_the_video_is(decoder: Decoder, ffmpeg: str, generated: Path) -> None:
    file = make(ffmpeg, Variant("h264", "mp4"), generated)  # 34 frames at 25 a second: 1.36 s
    assert file is not None
    for segment, wrong in ((Segment(1.4, None), "begins at 1.4 s"), (Segment(0.5, 30.0), "ends at 30 s")):
        with pytest.raises(VideoError, match=rf"h264-whole-25\.mp4: the segment {wrong}, but the video lasts 1\.360 s") as raised:
            decoder.frames([file], ALL_FRAMES, segment)
        assert raised.value.reason == "bad_segment"
    assert decoder.inspect([file], segment=Segment(1.0, 1.5)).seconds == pytest.approx(0.36)  # annotated times are rounded


@pytest.mark.parametrize("name", ["auto", "pyav"])
@pytest.mark.parametrize("codec", ["h264", "h264-b", "h264-one-key"])
def test_segments_of_a_file_that_stays_open_have_the_frames_of_a_file_that_is_opened(
    decoder: Decoder, ffmpeg: str, generated: Path, codec: str, name: str
) -> None:
    file, between = make(ffmpeg, Variant(codec, "mp4"), generated), make(ffmpeg, Variant("vp9", "webm"), generated)
    assert file is not None
    assert between is not None
    settings = FrameSettings(Preprocess(frames=4, min_pixels=3136, max_pixels=3136, decoder=name), VISION)
    times = [(0.0, 0.3), (0.2, 0.5), (1.0, 1.3), (0.1, 0.4), (1.0, 1.3), (0.0, None)]
    expected = []
    for start, end in times:
        decoder.frames([between], settings)  # closes the other file
        expected.append(decoder.frames([file], settings, Segment(start, end)).rows)
    for also in (None, file, between):
        for (start, end), rows in zip(times, expected, strict=True):
            np.testing.assert_array_equal(decoder.frames([file], settings, Segment(start, end)).rows, rows)
            if also is not None:
                decoder.frames([also], settings)


def test_a_file_that_is_replaced_between_two_segments_is_opened_again(
    decoder: Decoder, ffmpeg: str, generated: Path, tmp_path: Path
) -> None:
    sources = [make(ffmpeg, Variant(codec, "mp4"), generated) for codec in ("h264", "h264-b")]
    file = tmp_path / "a.mp4"
    for source in sources:
        assert source is not None
        file.write_bytes(source.read_bytes())
        np.testing.assert_array_equal(thumbnails(decoder, file, Segment(0.2, 0.6)), thumbnails(decoder, source, Segment(0.2, 0.6)))
    file.write_bytes(b"no video, but words")
    with pytest.raises(VideoError) as raised:
        decoder.frames([file], ALL_FRAMES, Segment(0.2, 0.6))
    assert raised.value.reason == "not_a_video"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generated")
