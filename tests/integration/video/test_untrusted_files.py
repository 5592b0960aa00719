"""Files that are no videos, or more than they seem: each gets its true reason, and nothing but the named file is opened."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest
from PIL import Image

from reelnest.errors import VideoError
from reelnest.settings import Validate
from reelnest.video import child, input_files
from reelnest.video.confinement import LARGEST_FILE, OPEN_FILES, SPARE_SECONDS
from reelnest.video.decoder import LEAST_MEMORY_BYTES, MEMORY_BYTES, Decoder, Limits, machine_memory_bytes
from reelnest.video.files.opening import packets
from reelnest.video.limits import MAX_FRAME_PIXELS
from tests.support.mutated_videos import run

MakeVideo = Callable[..., Path]
DATA = Path(__file__).parents[2] / "data" / "video"
SIDE = 16_000


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(Limits.of(Validate(decode_timeout_seconds=30.0))) as started:
        yield started


def refusal(decoder: Decoder, *files: Path) -> VideoError:
    with pytest.raises(VideoError) as raised:
        decoder.inspect(files)
    return raised.value


def large_png() -> bytes:
    """Black, of one bit a pixel: 31 kB that become 768 MB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 1, 0, 0, 0, 0)
    lines = zlib.compress(bytes((1 + SIDE // 8) * SIDE), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def large_gif() -> bytes:
    """A canvas of 16,000 x 16,000 with two frames of one pixel."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", SIDE, SIDE, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + frame * 2 + b"\x3b"


def large_mov(file: Path) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "monob"
        for number in range(2):
            packet = av.Packet(large_png())
            packet.stream, packet.pts, packet.dts, packet.time_base, packet.is_keyframe = stream, number, number, Fraction(1), True
            container.mux(packet)


def peak_memory(decoder: Decoder) -> int:
    lines = Path(f"/proc/{decoder.pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_large_frames_are_refused_for_their_size_before_one_is_decoded(decoder: Decoder, tmp_path: Path) -> None:
    large_mov(tmp_path / "bomb.mov")
    (tmp_path / "bomb.png").write_bytes(large_png())
    (tmp_path / "bomb.gif").write_bytes(large_gif())
    assert decoder.inspect([DATA / "hflip.mp4"]).frames == 20
    before = peak_memory(decoder)
    for name in ("bomb.mov", "bomb.png", "bomb.gif"):
        error = refusal(decoder, tmp_path / name)
        assert (error.reason, str(MAX_FRAME_PIXELS) in str(error)) == ("too_large", True), name
    assert peak_memory(decoder) < before + 50e6


def test_what_is_no_regular_file_is_named_for_what_it_is(decoder: Decoder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket.mp4"))
        for name, kind in (("pipe.mp4", "pipe"), ("folder.mp4", "folder"), ("socket.mp4", "socket")):
            error = refusal(decoder, tmp_path / name)
            assert (error.reason, kind in str(error)) == ("not_a_file", True)
    assert refusal(decoder, Path("/dev/null")).reason == "not_a_file"
    assert refusal(decoder, tmp_path / ("x" * 256)).reason == "missing"


@pytest.mark.parametrize("name", ["text.txt", "text.nfo", "text.ans", "text.diz", "text.mp4", "text"])
def test_no_text_is_a_video_whatever_it_is_called(decoder: Decoder, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a line of a text\n" * 300)
    assert refusal(decoder, tmp_path / name).reason == "not_a_video"


@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.ffconcat", "list.sdp", "list.mpd"])
def test_no_file_that_a_file_names_is_opened(decoder: Decoder, tmp_path: Path, make_video: MakeVideo, name: str) -> None:
    """Each script would be the video beside it, or ask an address of this machine."""
    video = make_video("real.mp4")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        port = listener.getsockname()[1]
        address = f"http://127.0.0.1:{port}/x.ts"
        for target in (video.name, str(video), address):
            scripts = (
                f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n",
                f"ffconcat version 1.0\nfile '{target}'\n",
                f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
                f'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{target}</BaseURL></MPD>\n',
                f"\n\n  #EXTM3U\n#EXTINF:5,\n{target}\n",
            )
            for script in scripts:
                (tmp_path / name).write_text(script)
                assert refusal(decoder, tmp_path / name).reason == "not_a_video"
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_pattern_in_a_name_opens_no_other_file(decoder: Decoder, tmp_path: Path, make_video: MakeVideo) -> None:
    for number in (1, 2, 3):
        Image.new("RGB", (64, 64), (number * 60,) * 3).save(tmp_path / f"p{number}.jpg")
    (tmp_path / "p%d.jpg").write_bytes(b"anything")
    assert refusal(decoder, tmp_path / "p%d.jpg").reason == "not_a_video"
    video = make_video("q%d.jpg.mp4").rename(tmp_path / "p%02d.jpg")
    assert decoder.inspect([video]).frames == 24


def test_a_name_that_is_no_text_is_read(decoder: Decoder, make_video: MakeVideo) -> None:
    video = make_video()
    renamed = Path(os.fsdecode(os.fsencode(video.parent) + b"/caf\xe9.mp4"))
    video.rename(renamed)
    assert decoder.inspect([renamed]).frames == 24


def test_a_stream_that_begins_in_the_middle_of_a_file_is_named() -> None:
    """PyAV raises IndexError there: seen with a transport stream with flipped bits."""

    class Container:
        def demux(self, _stream: None) -> Iterator[None]:
            yield from [][0]

    with pytest.raises(VideoError, match=r"x\.ts: .*a stream begins in the middle.*-c copy") as raised:
        list(packets((Container(), None), "x.ts"))  # type: ignore[arg-type]  # a stand-in
    assert raised.value.reason == "damaged"


def test_an_image_that_is_gone_when_the_decoder_process_asks_for_it_is_missing(
    limits: Limits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        Image.new("RGB", (64, 64)).save(file)

    def open_file(file: Path) -> int:
        if file == files[1]:
            file.unlink()
        return input_files.open_file(file)

    with Decoder(limits) as decoder:
        assert decoder.inspect(files).frames == 3
        monkeypatch.setattr(child, "open_file", open_file)
        error = refusal(decoder, *files)
        assert (error.reason, "1.png" in str(error)) == ("missing", True)
        assert decoder.inspect([files[0], files[2]]).frames == 2


ESCAPES = {
    "a file": "open('/etc/hostname').close()",
    "a folder": "__import__('os').listdir('/')",
    "a new file": "open('/tmp/reelnest-escape', 'w').close()",
    "a program": "__import__('os').execv('/bin/true', ['true'])",
    "TCP": "__import__('socket').create_connection(('127.0.0.1', 1))",
    "UDP": "__import__('socket').socket(__import__('socket').AF_INET, __import__('socket').SOCK_DGRAM)",
    "UNIX": "__import__('socket').socket(__import__('socket').AF_UNIX)",
    "its parent": "__import__('os').kill(__import__('os').getppid(), 0)",
}


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's")
@pytest.mark.parametrize("what", ESCAPES)
def test_an_isolated_process_reaches_nothing(what: str) -> None:
    code = (
        "import threading; from reelnest.video.confinement import isolate\n"
        "missing = isolate()\n"
        "def escape():\n"
        f"    try: {ESCAPES[what]}\n"
        "    except PermissionError: print('denied')\n"
        "    else: print('reached')\n"
        "thread = threading.Thread(target=escape); thread.start(); thread.join(); escape(); print(missing)\n"
        "import colorsys"  # a library of Python
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["denied", "denied", "[]"], result.stderr


def test_every_thread_of_a_decoder_process_is_isolated(decoder: Decoder) -> None:
    decoder.inspect([DATA / "hflip.mp4"])
    states = [(thread / "status").read_text().split() for thread in Path(f"/proc/{decoder.pid}/task").iterdir()]
    assert states
    assert all(state[state.index("Seccomp:") + 1] == "2" and state[state.index("NoNewPrivs:") + 1] == "1" for state in states)


def test_the_decoder_process_has_limits_and_the_workers_share_the_memory(make_video: MakeVideo, limits: Limits) -> None:
    for workers in (1, 1000):
        with Decoder(limits, workers) as decoder:
            decoder.inspect([make_video()])
            lines = Path(f"/proc/{decoder.pid}/limits").read_text().splitlines()
            values = {line[:26].strip(): line[26:].split()[:2] for line in lines[1:]}
        memory = str(min(MEMORY_BYTES, machine_memory_bytes() // 2) if workers == 1 else LEAST_MEMORY_BYTES)
        assert values["Max address space"] == [memory, memory]
        assert values["Max open files"] == [str(OPEN_FILES)] * 2
        assert values["Max file size"] == [str(LARGEST_FILE)] * 2
        assert values["Max core file size"] == ["0", "0"]
        assert int(values["Max cpu time"][0]) <= limits.timeout_seconds + 2 * SPARE_SECONDS


def test_mutated_files_are_read_or_refused_and_nothing_else_is_opened(tmp_path: Path) -> None:
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None and "CI" not in os.environ:
        pytest.skip("ffmpeg makes the valid clips: apt-get install ffmpeg")
    assert ffmpeg is not None
    outcome = run(ffmpeg, tmp_path, 50, seed=2)
    assert (outcome.faults, outcome.opened) == ([], 0)
    assert (outcome.files, outcome.valid) == (50, 5)
    assert outcome.reasons["read"] > outcome.valid
    assert len(outcome.reasons) > 3
