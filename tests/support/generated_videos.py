"""Videos that the ffmpeg program generates, and the frames that it shows at which times: the reference for the decoders.

The matrix is codec × container × way of cutting or joining × rate. Each frame is a horizontal ramp, and its brightness gives its number.
"""

import re
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FRAMES, STEP = 34, 7
HEIGHT, WIDTH = 48, 64
THUMBNAIL = 8
TOLERANCE = 3.0
"""Grey levels. Consecutive frames differ by STEP."""
SAME_TIME_SECONDS = 0.002
IMPOSSIBLE_SECONDS = 1e7

B_FRAMES = ("-bf", "3", "-g", "10", "-sc_threshold", "0")
CODECS = {
    "h264": ("libx264", "-bf", "0", "-g", "10"),
    "h264-b": ("libx264", *B_FRAMES),
    "h264-one-key": ("libx264", "-bf", "2", "-g", "250"),
    "h264-open": ("libx264", *B_FRAMES, "-x264-params", "open-gop=1"),
    "h264-refresh": ("libx264", "-bf", "0", "-g", "15", "-x264-params", "intra-refresh=1"),
    "hevc": ("libx265", "-x265-params", "keyint=10:bframes=2:open-gop=0:log-level=none"),
    "hevc-open": ("libx265", "-x265-params", "keyint=10:bframes=2:open-gop=1:log-level=none"),
    "av1": ("libaom-av1", "-cpu-used", "8", "-g", "10", "-lag-in-frames", "8", "-usage", "good"),
    "mpeg1": ("mpeg1video", "-bf", "2", "-g", "12", "-b:v", "2M"),
    "mpeg2": ("mpeg2video", "-bf", "2", "-g", "12", "-b:v", "2M"),
    "mpeg4": ("mpeg4", "-bf", "2", "-g", "12", "-b:v", "2M"),
    "vp8": ("libvpx", "-b:v", "500k", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-g", "20"),
    "vp9": ("libvpx-vp9", "-b:v", "500k", "-g", "10", "-cpu-used", "5"),
    "vp9-alt": ("libvpx-vp9", "-b:v", "500k", "-g", "20", "-cpu-used", "5", "-auto-alt-ref", "1", "-lag-in-frames", "16"),
    "theora": ("libtheora", "-b:v", "500k", "-g", "12"),
    "mjpeg": ("mjpeg", "-pix_fmt", "yuvj420p"),
    "prores": ("prores_ks", "-pix_fmt", "yuv422p10le"),
    "flv1": ("flv", "-b:v", "1M", "-g", "12"),
    "wmv2": ("wmv2", "-b:v", "1M"),
    "msmpeg4": ("msmpeg4", "-b:v", "1M"),
}
CONTAINERS = {
    "h264": ("mp4", "mov", "mkv", "flv", "avi", "ts", "h264", "3gp", "m4v", "frag.mp4"),
    "h264-b": ("mp4", "mov", "mkv", "flv", "avi", "ts", "mts", "h264", "frag.mp4", "nolist.mp4"),
    "h264-one-key": ("mp4", "mkv", "ts", "avi"),
    "h264-open": ("mp4", "mkv", "ts", "flv"),
    "h264-refresh": ("mp4", "mkv", "ts"),
    "hevc": ("mp4", "mkv", "ts", "hevc", "frag.mp4"),
    "hevc-open": ("mp4", "mkv", "ts"),
    "av1": ("mp4", "mkv", "webm", "ivf"),
    "mpeg1": ("mpg", "mkv", "ts"),
    "mpeg2": ("mpg", "vob", "ts", "mkv", "mxf", "mov", "avi"),
    "mpeg4": ("mp4", "avi", "mkv", "mov", "ts"),
    "vp8": ("webm", "mkv", "ivf", "live.webm"),
    "vp9": ("webm", "mp4", "mkv", "live.webm"),
    "vp9-alt": ("webm", "mp4", "ivf"),
    "theora": ("ogv", "mkv"),
    "mjpeg": ("mov", "avi", "mkv", "mp4"),
    "prores": ("mov", "mkv"),
    "flv1": ("flv", "avi"),
    "wmv2": ("wmv", "avi", "mkv"),
    "msmpeg4": ("avi", "wmv"),
}
OPTIONS = {
    "mts": ("-f", "mpegts"),
    "m4v": ("-f", "mp4"),
    "frag.mp4": ("-movflags", "frag_keyframe+empty_moov"),
    "nolist.mp4": ("-use_editlist", "0"),
    "live.webm": ("-live", "1"),
}
CUTS = {
    "whole": None,
    "seek": (("-ss", "0.5"), ("-t", "0.6")),  # seeks in the input: begins at the key frame before
    "seek-late": (("-ss", "0.93"), ()),
    "end": ((), ("-t", "0.77")),
    "skip": ((), ("-ss", "0.5")),  # drops packets of the output, so it may begin without a key frame
    "keep-times": (("-ss", "0.5", "-copyts"), ("-avoid_negative_ts", "disabled")),
    "earlier": (("-itsoffset", "-0.3"), ("-avoid_negative_ts", "disabled")),
    "later": (("-itsoffset", "1.7"), ()),
}
"""Options of `ffmpeg -c copy` before and after the input."""
RATES = ("10", "24000/1001", "60", "varying")


@dataclass(frozen=True)
class Variant:
    """One file of the matrix."""

    codec: str
    container: str
    cut: str = "whole"
    rate: str = "25"

    @property
    def name(self) -> str:
        """Its file name."""
        return f"{self.codec}-{self.cut}-{self.rate.replace('/', '_')}.{self.container}"


def matrix() -> Iterator[Variant]:
    """All files: each codec in each container, cut in each way, and at other rates."""
    for codec, containers in CONTAINERS.items():
        for container in containers:
            yield from (Variant(codec, container, cut) for cut in CUTS if cut == "whole" or container not in ("h264", "hevc"))
            if container in ("mp4", "mkv", "webm", "ts", "mov"):
                yield from (Variant(codec, container, rate=rate) for rate in RATES)


def run(*command: str, frames: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Runs a program that must succeed."""
    return subprocess.run(command, input=frames, capture_output=True, check=True)


def numbered_frames() -> bytes:
    """The frames: the mean brightness of frame n is 7 n + 6, darker on the left."""
    ramp = np.linspace(-5, 5, WIDTH)
    levels = np.arange(FRAMES)[:, None] * STEP + 6 + ramp[None, :]
    pixels = np.clip(np.rint(levels), 0, 255).astype(np.uint8)  # (frames, width)
    return np.broadcast_to(pixels[:, None, :, None], (FRAMES, HEIGHT, WIDTH, 3)).tobytes()


def encode(ffmpeg: str, file: Path, codec: str, *options: str, rate: str = "25") -> None:
    """Encodes the numbered frames."""
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", rate, "-i", "-"]
    run(
        ffmpeg,
        "-v",
        "error",
        "-y",
        *raw,
        "-c:v",
        codec,
        "-threads",
        "1",
        "-pix_fmt",
        "yuv420p",
        *options,
        str(file),
        frames=numbered_frames(),
    )


def make(ffmpeg: str, variant: Variant, folder: Path) -> Path | None:
    """The file of a variant, or None if ffmpeg cannot write it. A file that is there is not made again."""
    file = folder / variant.name
    if file.is_file():
        return file
    options = OPTIONS.get(variant.container, ())
    varying = ("-vf", "setpts='PTS+floor(N/8)*0.3/TB'", "-vsync", "vfr") if variant.rate == "varying" else ()
    rate = "25" if variant.rate == "varying" else variant.rate
    try:
        if CUTS[variant.cut] is None:
            encode(ffmpeg, file, *CODECS[variant.codec], *varying, *options, rate=rate)
        else:
            before, after = CUTS[variant.cut] or ((), ())
            whole = make(ffmpeg, Variant(variant.codec, variant.container), folder)
            if whole is None:
                return None
            run(ffmpeg, "-v", "error", "-y", *before, "-i", str(whole), "-map", "0:v", "-c", "copy", *after, *options, str(file))
    except subprocess.CalledProcessError:
        return None
    return file


def with_edits(source: Path, file: Path, edits: Sequence[tuple[float, float]]) -> None:
    """Writes an MP4 whose edit list shows parts of `source`, which ffmpeg wrote. `edits` has their starts and lengths in seconds."""
    content = bytearray(source.read_bytes())
    parents = []
    at, end = 0, len(content)
    for name in (b"moov", b"trak", b"edts", b"elst"):
        while content[at + 4 : at + 8] != name:
            at += int.from_bytes(content[at : at + 4], "big")
            assert at < end
        end = at + int.from_bytes(content[at : at + 4], "big")
        parents.append(at)
        at += 8
    begin = parents.pop()
    shift = int.from_bytes(content[begin + 20 : begin + 24], "big")  # of reordered frames
    rows = [struct.pack(">Iihh", round(length * 1000), shift + round(start * 12_800), 1, 0) for start, length in edits]
    content[begin:end] = struct.pack(">I4sII", 16 + 12 * len(rows), b"elst", 0, len(rows)) + b"".join(rows)
    for parent in parents:
        size = int.from_bytes(content[parent : parent + 4], "big") + 12 * (len(rows) - 1)
        content[parent : parent + 4] = size.to_bytes(4, "big")
    file.write_bytes(content)


@dataclass(frozen=True)
class Reference:
    """FFmpeg's frames that a player shows: those that are later than all frames before them."""

    times: NDArray[np.float64]
    frames: NDArray[np.float64]
    """Thumbnails, (frames, THUMBNAIL, THUMBNAIL), grey."""

    @classmethod
    def of(cls, times: NDArray[np.float64], frames: NDArray[np.float64]) -> "Reference":
        """Of all frames in decoding order."""
        latest = np.maximum.accumulate(times)
        later = np.flatnonzero(np.append(True, latest[1:] > latest[:-1]))
        return cls(times[later], frames[later])

    def largest_error(self, sampled: NDArray[np.float64]) -> float:
        """Mean difference of the worst of evenly spaced thumbnails. Where two frames are equally near to a time, either is correct."""
        errors = []
        for time, thumbnail in zip(np.linspace(self.times[0], self.times[-1], len(sampled)), sampled, strict=True):
            distance = np.abs(self.times - time)
            near = self.frames[distance <= distance.min() + SAME_TIME_SECONDS]
            errors.append(np.abs(near - thumbnail).mean(axis=(1, 2)).min())
        return float(max(errors))


def reference(ffmpeg: str, file: Path) -> Reference | None:
    """What the ffmpeg program shows; None if it shows nothing. Frames without a time are excluded, as players do not show them."""
    output = ["-vsync", "passthrough", "-s", f"{THUMBNAIL}x{THUMBNAIL}", "-sws_flags", "area", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    try:
        result = run(ffmpeg, "-v", "info", "-i", str(file), "-map", "0:v:0", "-vf", "showinfo", *output)
    except subprocess.CalledProcessError:
        return None
    times = np.array([float(time) for time in re.findall(rb" pts_time:\s*([-+.0-9e]+)", result.stderr)])
    frames = np.frombuffer(result.stdout, np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL, 3).mean(axis=3)
    is_possible = np.abs(times) < IMPOSSIBLE_SECONDS  # a negative time that is stored as an unsigned number
    times, frames = times[is_possible], frames[is_possible]
    if file.suffix in (".h264", ".hevc"):  # raw streams have no times; ffmpeg guesses the first one wrongly
        times = np.arange(len(times)) / 25
    if len(times) and times[0] < 0:  # ffmpeg's AV1 decoder shows frames that an edit list hides
        hidden = hidden_times(ffmpeg, file)
        is_shown = np.array([not np.isclose(hidden, time, atol=SAME_TIME_SECONDS).any() for time in times])
        times, frames = times[is_shown], frames[is_shown]
    if (np.diff(times) <= 0).any():  # ffmpeg gives frames without a time one, from zero on
        is_timed = np.array([time != b"N/A" for time in frame_times(ffmpeg, file)])
        times, frames = times[is_timed], frames[is_timed]
    return Reference.of(times, frames) if len(times) else None


def hidden_times(ffmpeg: str, file: Path) -> NDArray[np.float64]:
    """The times of packets that are decoded and not shown."""
    lines = probe(ffmpeg, file, "packet=pts_time,flags", "csv=p=0").decode().split()
    pairs = [line.split(",")[:2] for line in lines]
    return np.array([float(time) for time, flags in pairs if "D" in flags and time != "N/A"])


def frame_times(ffmpeg: str, file: Path) -> list[bytes]:
    """The times of all frames as ffprobe prints them; N/A if a frame has none."""
    return probe(ffmpeg, file, "frame=best_effort_timestamp_time", "default=noprint_wrappers=1:nokey=1").split()


def probe(ffmpeg: str, file: Path, entries: str, output: str) -> bytes:
    """What ffprobe prints about the first video stream."""
    program = str(Path(ffmpeg).with_name("ffprobe"))
    return run(program, "-v", "error", "-select_streams", "v:0", "-show_entries", entries, "-of", output, str(file)).stdout
