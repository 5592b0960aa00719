"""Damaged and disguised videos by the thousand: `python -m tests.support.mutated_videos 2000 --seed 0`.

Valid clips in several containers are damaged at random: flipped bits, noise, missing and repeated bytes, cut ends, the header of one file
before the content of another. Some files name others: trap files outside the data folder, and a listening socket. Each file is inspected
and sampled as the stages do it, with valid clips in between. `Outcome` says what became of them.
"""

import argparse
import collections
import ctypes
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.errors import VideoError
from reelnest.settings import Preprocess, Validate
from reelnest.video.decoder import Decoder, Limits, in_parallel
from reelnest.video.frames import FrameSettings
from tests.support.generated_videos import FRAMES, Variant, make

KINDS = (
    ("h264", "mp4"),
    ("h264-b", "mp4"),
    ("h264-b", "mov"),
    ("h264-b", "mkv"),
    ("h264-b", "ts"),
    ("h264-b", "flv"),
    ("h264", "avi"),
    ("hevc", "mp4"),
    ("vp8", "webm"),
    ("vp9", "webm"),
    ("mpeg2", "mpg"),
    ("mpeg4", "avi"),
    ("theora", "ogv"),
    ("wmv2", "wmv"),
    ("mjpeg", "mov"),
)
TIMEOUT_SECONDS = 20.0
START_SECONDS = 60.0
"""A new decoder process may take so long on a busy machine."""
VALID_EVERY = 10
IN_ACCESS, IN_OPEN = 0x1, 0x20  # sys/inotify.h
Random = np.random.Generator


def _flip_bits(content: bytearray, random: Random) -> None:
    for at in random.integers(0, len(content), random.integers(1, 40)):
        content[at] ^= 1 << random.integers(8)


def _flip_bits_of_the_header(content: bytearray, random: Random) -> None:
    for at in random.integers(0, min(len(content), 1200), random.integers(1, 8)):
        content[at] ^= 1 << random.integers(8)


def _make_noise(content: bytearray, random: Random) -> None:
    start, size = random.integers(len(content)), random.integers(1, 400)
    content[start : start + size] = random.bytes(len(content[start : start + size]))


def _make_large_numbers(content: bytearray, random: Random) -> None:
    """Sizes, counts and times in headers."""
    for at in random.integers(0, len(content) - 8, random.integers(1, 6)):
        content[at : at + 4] = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"][random.integers(4)]


def _remove_bytes(content: bytearray, random: Random) -> None:
    start = random.integers(len(content))
    del content[start : start + random.integers(1, 2000)]


def _repeat_bytes(content: bytearray, random: Random) -> None:
    start = int(random.integers(len(content)))
    content[start:start] = content[start : start + int(random.integers(1, 4000))] * int(random.integers(1, 8))


def _cut(content: bytearray, random: Random) -> None:
    del content[random.integers(1, len(content)) :]


MUTATIONS = (_flip_bits, _flip_bits_of_the_header, _make_noise, _make_large_numbers, _remove_bytes, _repeat_bytes, _cut)


def _spliced(first: bytes, second: bytes, random: Random) -> bytes:
    """The header of one file before the content of another."""
    head = int(random.integers(16, min(2000, len(first))))
    return first[:head] + second[int(random.integers(0, min(head * 2, len(second)))) :]


def _naming(target: str, valid: bytes, random: Random) -> bytes:
    """A file that names another: a script, or a video in which the name takes the place of other bytes."""
    port = target.rpartition(":")[2].partition("/")[0]
    scripts = (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n",
        f"\n #EXTM3U\n#EXTINF:5,\n{target}\n",
        f"ffconcat version 1.0\nfile '{target}'\n",
        f"ffconcat version 1.0\nfile 'subfile,,start,0,end,0,,:{target}'\n",
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {port if port.isdigit() else 1} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        f'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{target}</BaseURL></MPD>\n',
        f"RTSPtext\nrtsp://{target}\n",
        f"[playlist]\nFile1={target}\nNumberOfEntries=1\n",
    )
    kind = int(random.integers(len(scripts) + 1))
    if kind < len(scripts):
        return scripts[kind].encode()
    # QuickTime: the media is in another file. The reference takes the place of the one to this file.
    alias = target.encode()
    reference = (12 + len(alias)).to_bytes(4, "big") + b"url \0\0\0\0" + alias
    return valid.replace(b"\0\0\0\x0curl \0\0\0\x01", reference)


@dataclass
class Outcome:
    """What became of the files."""

    files: int = 0
    valid: int = 0
    reasons: collections.Counter[str] = field(default_factory=collections.Counter)
    """Of the files that were refused; the reason of the others is `read`."""
    faults: list[str] = field(default_factory=list)
    """Valid files that were not read, files refused without a text, and waits beyond the time-out."""
    longest_seconds: float = 0.0
    opened: int = 0
    """How often a trap file was opened, or the socket was asked."""


class Traps:
    """Files outside the data folder and a socket, which no decoder may open."""

    def __init__(self, folder: Path, valid: bytes) -> None:
        self.folder = folder
        folder.mkdir()
        self.files = [folder / name for name in ("trap.mp4", "trap.ts", "secret.txt")]
        for file in self.files:
            file.write_bytes(valid)
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._tcp.settimeout(0)
        self.port = self._tcp.getsockname()[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        self._udp.settimeout(0)
        library = ctypes.CDLL(None, use_errno=True)
        self._events = library.inotify_init1(os.O_NONBLOCK)
        watched = library.inotify_add_watch(self._events, os.fsencode(folder), IN_OPEN | IN_ACCESS)
        if self._events < 0 or watched < 0:
            raise OSError("inotify is not available")

    def targets(self) -> list[str]:
        """Names and addresses that a hostile file gives."""
        addresses = [f"{scheme}://127.0.0.1:{self.port}/x.ts" for scheme in ("http", "tcp", "udp", "ftp")]
        return [*map(str, self.files), *(f"file:{file}" for file in self.files), f"../{self.folder.name}/trap.ts", *addresses]

    def opened(self) -> int:
        """How often one was opened since the last call."""
        count = 0
        for read in (lambda: os.read(self._events, 1 << 16), self._accept, lambda: self._udp.recv(10)):
            try:
                while read():
                    count += 1
            except BlockingIOError:
                continue
        return count

    def _accept(self) -> bool:
        self._tcp.accept()[0].close()
        return True

    def close(self) -> None:
        """Ends watching."""
        self._tcp.close()
        self._udp.close()
        os.close(self._events)


def mutated(valid: list[bytes], targets: list[str], count: int, seed: int) -> Iterator[tuple[bytes, bool]]:
    """The files' contents, and whether they are valid. The same for the same seed."""
    random = np.random.default_rng(seed)
    for number in range(count):
        source = valid[number % len(valid)]
        kind = int(random.integers(12))
        if number % VALID_EVERY == 0:
            yield source, True
        elif kind == 0:
            yield _naming(targets[random.integers(len(targets))], source, random), False
        elif kind <= 2:
            yield _spliced(source, valid[random.integers(len(valid))], random), False
        else:
            content = bytearray(source)
            for _ in range(random.integers(1, 3)):
                MUTATIONS[random.integers(len(MUTATIONS))](content, random)
                content = content or bytearray(source)
            yield bytes(content), False


def run(ffmpeg: str, folder: Path, count: int, seed: int, workers: int = 2, report: Callable[[str], object] = str) -> Outcome:
    """Inspects and samples `count` files in `folder`."""
    made = [make(ffmpeg, Variant(*kind), folder) for kind in KINDS]
    valid = [file.read_bytes() for file in made if file is not None]
    settings = FrameSettings(Preprocess(frames=4), VISION)
    limits = Limits.of(Validate(decode_timeout_seconds=TIMEOUT_SECONDS, max_video_frames=2000, max_video_seconds=600))
    data = folder / "data"
    data.mkdir()
    outcome = Outcome()
    lock = threading.Lock()

    def read(decoder: Decoder, job: tuple[Path, bool]) -> str:
        started = time.monotonic()
        try:
            info = decoder.inspect([job[0]])
            frames = decoder.frames([job[0]], settings)
            if job[1] and (info.frames != FRAMES or frames.grid_thw[0] * VISION.temporal_patch_size != settings.sampling.frames):
                outcome.faults.append(f"{job[0].name} is valid, but was read as {info}")
            return "read"
        except VideoError as error:
            if job[1] or not error.reason or not str(error):
                outcome.faults.append(f"{job[0].name}, valid: {job[1]}: {error.reason}: {error}")
            return error.reason
        finally:
            with lock:
                outcome.longest_seconds = max(outcome.longest_seconds, time.monotonic() - started)

    with ExitStack() as stack:
        traps = Traps(folder / "outside", valid[0])
        stack.callback(traps.close)
        traps.opened()
        jobs: list[tuple[Path, bool]] = []
        for number, (content, is_valid) in enumerate(mutated(valid, traps.targets(), count, seed)):
            file = data / f"{number}.mp4"
            file.write_bytes(content)
            jobs.append((file, is_valid))
        for (file, is_valid), reason in in_parallel(jobs, read, limits, workers):
            outcome.files += 1
            outcome.valid += is_valid
            outcome.reasons[str(reason)] += 1
            if reason in ("timeout", "decoder_crashed"):
                report(f"{file.name}: {reason}")
        if outcome.longest_seconds > 2 * (TIMEOUT_SECONDS + START_SECONDS):
            outcome.faults.append(f"a file took {outcome.longest_seconds:.0f} s")
        outcome.opened = traps.opened()
        # The traps work: this opens one, and asks the socket.
        traps.files[0].read_bytes()
        with socket.create_connection(("127.0.0.1", traps.port)):
            pass
        if traps.opened() < 2:
            outcome.faults.append("the traps do not work")
    return outcome


def main() -> None:
    """Prints the outcome; the exit status is 1 if there are faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise SystemExit("ffmpeg makes the valid clips: apt-get install ffmpeg")
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(ffmpeg, Path(folder), arguments.files, arguments.seed, report=lambda text: sys.stderr.write(text + "\n"))
    sys.stdout.write(f"{outcome}\n")
    sys.exit(bool(outcome.faults or outcome.opened))


if __name__ == "__main__":
    main()
