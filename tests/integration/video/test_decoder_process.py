"""The decoder's process: it hangs, crashes and ends without harm to others, and several run in parallel."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.errors import VideoError
from reelnest.settings import Preprocess
from reelnest.video.decoder import Decoder, Limits, in_parallel
from reelnest.video.frames import FrameSettings

MakeVideo = Callable[..., Path]
SMALL = FrameSettings(Preprocess(frames=4, min_pixels=3136, max_pixels=3136), VISION)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def test_a_decoder_that_hangs_is_stopped_and_the_next_video_is_decoded(make_video: MakeVideo, limits: Limits) -> None:
    video = make_video()
    with Decoder(replace(limits, timeout_seconds=1.0)) as decoder:
        decoder.inspect([video])
        hanging = decoder.pid
        assert hanging is not None
        os.kill(hanging, signal.SIGSTOP)
        with pytest.raises(VideoError) as raised:
            decoder.inspect([video])
        assert raised.value.reason == "timeout"
        wait_until(lambda: not is_alive(hanging))
        assert decoder.inspect([video]).frames == 24
        assert decoder.pid != hanging


def test_an_idle_decoder_that_died_is_replaced_and_the_video_is_decoded(make_video: MakeVideo, limits: Limits) -> None:
    video = make_video()
    with Decoder(limits) as decoder:
        decoder.inspect([video])
        assert decoder.pid is not None
        os.kill(decoder.pid, signal.SIGSEGV)
        assert decoder.inspect([video]).frames == 24


def test_a_video_that_crashes_the_decoder_costs_that_video_alone(make_video: MakeVideo, limits: Limits) -> None:
    small, large = make_video("small.mp4"), make_video("large.mp4", frames=1000, size=(160, 120), key_every=10_000)
    stop = threading.Event()

    def crash_the_process_that_reads_it(decoder: Decoder) -> None:
        while not stop.wait(0.001):
            try:
                descriptors = Path(f"/proc/{decoder.pid}/fd")
                if any(link.readlink() == large for link in descriptors.iterdir()) and decoder.pid:
                    os.kill(decoder.pid, signal.SIGSEGV)
            except OSError:  # the process or one of its files has gone
                continue

    with Decoder(limits) as decoder:
        assert decoder.inspect([small]).frames == 24
        assassin = threading.Thread(target=crash_the_process_that_reads_it, args=(decoder,))
        assassin.start()
        try:
            with pytest.raises(VideoError) as raised:
                decoder.inspect([large])
            assert raised.value.reason == "decoder_crashed"
            assert decoder.inspect([small]).frames == 24
        finally:
            stop.set()
            assassin.join()


def test_the_decoder_dies_with_its_parent(make_video: MakeVideo) -> None:
    code = (
        "import sys, time; from pathlib import Path; from reelnest.settings import Validate\n"
        "from reelnest.video.decoder import Decoder, Limits\n"
        "decoder = Decoder(Limits.of(Validate())); decoder.inspect([Path(sys.argv[1])])\n"
        "print(decoder.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(make_video())], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    wait_until(lambda: not is_alive(child))


def test_closing_ends_the_child_even_in_the_middle_of_a_request(make_video: MakeVideo, limits: Limits) -> None:
    video = make_video()
    decoder = Decoder(limits)
    decoder.inspect([video])
    child = decoder.pid
    assert child is not None
    os.kill(child, signal.SIGSTOP)
    failures: list[VideoError] = []

    def inspect() -> None:
        try:
            decoder.inspect([video])
        except VideoError as error:
            failures.append(error)

    thread = threading.Thread(target=inspect)
    thread.start()
    time.sleep(0.1)
    decoder.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert len(failures) == 1
    assert not is_alive(child)


def test_the_decoder_process_imports_neither_torch_nor_arrow_nor_pydantic() -> None:
    code = "import sys, reelnest.video.decoder_process; print(*[n for n in ('torch', 'pyarrow', 'pydantic', 'pandas') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_parallel_results_come_in_order_with_errors_in_their_place(make_video: MakeVideo, tmp_path: Path, limits: Limits) -> None:
    (tmp_path / "bad.mp4").write_text("no video\n")
    jobs = [make_video(f"{number}.mp4", frames=number + 2) for number in range(9)]
    jobs.insert(4, tmp_path / "bad.mp4")
    results = list(in_parallel(jobs, lambda decoder, file: decoder.inspect([file]).frames, limits, workers=3))
    assert [job for job, _ in results] == jobs
    reasons = [result.reason if isinstance(result, VideoError) else result for _, result in results]
    assert reasons == [2, 3, 4, 5, "not_a_video", 6, 7, 8, 9, 10]


def test_leaving_a_parallel_run_early_ends_its_decoders(make_video: MakeVideo, limits: Limits) -> None:
    video = make_video()
    pids: set[int] = set()

    def work(decoder: Decoder, file: Path) -> int:
        frames = decoder.inspect([file]).frames
        pids.add(decoder.pid or 0)
        return frames

    results = in_parallel([video] * 50, work, limits, workers=2)
    next(results)
    results.close()  # type: ignore[attr-defined]  # a generator
    assert pids
    assert not any(is_alive(pid) for pid in pids)
