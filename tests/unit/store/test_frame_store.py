import gc
import os
import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.errors import DataError
from reelnest.settings import Preprocess
from reelnest.store.frame_cache import PLACES_FILE, FrameCache, listed_keys
from reelnest.store.frame_store import FrameStore, Member, Shard
from reelnest.store.frame_store_writing import plan_shards, write_store
from reelnest.video.frames import Frames, FrameSettings
from reelnest.video.vision_spec import VisionSpec
from tests.support.video_keys import video_key


def frames_of(number: int, steps: int = 2) -> Frames:
    rows = np.random.default_rng(number).integers(0, 256, (steps * 16, 1176), dtype=np.uint8)
    return Frames.of(rows, (steps, 4, 4), 0.25 * (number + 1), VISION)


def key_of(number: int) -> str:
    return f"{number:040x}"


def filled(cache: FrameCache, numbers: Sequence[int]) -> list[tuple[str, str]]:
    for number in numbers:
        if key_of(number) not in cache:
            cache.add(key_of(number), frames_of(number))
    return [(f"video-{number}", key_of(number)) for number in numbers]


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def make(folder: Path, work: Path, numbers: Sequence[int], shard_megabytes: float = 0.2) -> FrameCache:
    cache = FrameCache(work)
    cache.keep_only(write_store(folder, filled(cache, numbers), cache, shard_megabytes, VISION))
    return cache


def test_stored_videos_are_read_by_id_and_by_position(tmp_path: Path) -> None:
    make(tmp_path / "store", tmp_path / "work", range(30))
    store = FrameStore.open(tmp_path / "store")
    assert list(store.video_ids) == sorted(f"video-{number}" for number in range(30))
    for number in range(30):
        expected, frames = frames_of(number), store.get(f"video-{number}")
        assert np.array_equal(frames.rows, expected.rows)
        assert (frames.grid_thw, frames.seconds_per_grid) == (expected.grid_thw, expected.seconds_per_grid)
        assert np.array_equal(store.at(store.video_ids.index(f"video-{number}")).rows, expected.rows)
    assert "video-3" in store
    assert "video-30" not in store
    with pytest.raises(KeyError):
        store.get("video-30")
    assert store.bytes == 30 * 32 * 1176


def test_rows_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    make(tmp_path / "store", tmp_path / "work", range(5))
    store = FrameStore.open(tmp_path / "store")
    first, second = store.get("video-1").rows, store.get("video-1").rows
    assert not first.flags.owndata
    assert not first.flags.writeable
    assert first.ctypes.data == second.ctypes.data
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        ranges = [line.split()[0].split("-") for line in mapped.read_text().splitlines() if str(tmp_path) in line]
        assert any(int(start, 16) <= first.ctypes.data < int(end, 16) for start, end in ranges)


def test_rows_outlive_the_store_and_files_are_closed(tmp_path: Path) -> None:
    make(tmp_path / "store", tmp_path / "work", range(30))
    gc.collect()
    before = open_files()
    store = FrameStore.open(tmp_path / "store")
    rows, *_ = [store.at(position).rows for position in range(30)]
    expected = rows.copy()
    del store
    gc.collect()
    assert np.array_equal(rows, expected)
    del rows
    gc.collect()
    assert open_files() == before


def test_the_bytes_do_not_depend_on_earlier_runs(tmp_path: Path) -> None:
    make(tmp_path / "at-once", tmp_path / "work-1", range(40))
    make(tmp_path / "first", tmp_path / "work-2", range(1, 40, 2))
    make(tmp_path / "then", tmp_path / "work-2", [*range(39, -1, -1)])
    assert content(tmp_path / "then") == content(tmp_path / "at-once")


def test_adding_a_video_leaves_nearly_all_shards_unchanged(tmp_path: Path) -> None:
    numbers = [number for number in range(200) if number != 57]
    make(tmp_path / "before", tmp_path / "work", numbers)
    make(tmp_path / "after", tmp_path / "work", range(200))
    before = {file.stat().st_ino for file in (tmp_path / "before").glob("shard-*")}
    after = {file.stat().st_ino for file in (tmp_path / "after").glob("shard-*")}
    assert len(after) > 20
    assert len(after - before) <= 3


def test_a_store_and_its_cache_share_their_bytes_on_disk(tmp_path: Path) -> None:
    make(tmp_path / "store", tmp_path / "work", range(20))
    files = sorted(file.stat().st_ino for file in (tmp_path / "work" / "shards").glob("*.arrow"))
    assert files == sorted(file.stat().st_ino for file in (tmp_path / "store").glob("shard-*"))


def test_where_links_are_impossible_shards_are_copied(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")  # noqa: S108 (a path of the test)
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    work = elsewhere / f"reelnest-test-{os.getpid()}"
    try:
        make(tmp_path / "store", work, range(10))
        make(tmp_path / "same", tmp_path / "work", range(10))
        assert content(tmp_path / "store") == content(tmp_path / "same")
    finally:
        for file in sorted(work.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        work.rmdir()


def test_shards_stay_below_their_size_and_keep_the_order() -> None:
    members = [Member(f"video-{number:04d}", "", (1 + number % 9, 4, 4), 1.0, (1 + number % 9) * 16 * 1176) for number in range(1000)]
    groups = plan_shards(members, 1_000_000)
    assert [member for group in groups for member in group] == members
    assert all(sum(member.bytes for member in group) <= 1_000_000 for group in groups)
    assert 94 <= len(groups) <= 400  # 94 MB; half full on average
    huge = plan_shards(members[:3], 1)
    assert [len(group) for group in huge] == [1, 1, 1]


def test_two_ids_with_the_same_bytes_share_one_decoded_video(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path / "work")
    cache.add(key_of(0), frames_of(0))
    write_store(tmp_path / "store", [("b", key_of(0)), ("a", key_of(0))], cache, 0.00001, VISION)
    store = FrameStore.open(tmp_path / "store")
    assert store.video_ids == ("a", "b")
    assert np.array_equal(store.get("a").rows, store.get("b").rows)


def test_a_full_disk_is_an_error_and_leaves_no_incomplete_files(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path / "work")
    filled(cache, range(3))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))  # less than the 37 kB of one video
    try:
        with pytest.raises(DataError, match="disk is full or a quota is reached") as raised:
            cache.add(key_of(3), frames_of(3))
        with pytest.raises(DataError, match="disk is full or a quota is reached"):
            write_store(tmp_path / "store", [(f"video-{number}", key_of(number)) for number in range(3)], cache, 1, VISION)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "preprocess.max_pixels" in str(raised.value)
    assert sorted(file.name for file in (tmp_path / "work").rglob("*") if file.is_file()) == [f"{key_of(n)}.arrow" for n in range(3)]
    with pytest.raises(DataError, match="no readable frame store"):
        FrameStore.open(tmp_path / "store")
    # Once there is space again, the spilled videos are reused.
    again = FrameCache(tmp_path / "work")
    assert all(key_of(number) in again for number in range(3))


def test_incomplete_files_are_removed_and_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = FrameCache(tmp_path / "work")
    filled(cache, range(2))
    victim = next(file for file in (tmp_path / "work").rglob("*.arrow") if key_of(1) in file.name)
    victim.write_bytes(victim.read_bytes()[:1000])
    again = FrameCache(tmp_path / "work")
    assert key_of(0) in again
    assert key_of(1) not in again
    assert not victim.exists()
    assert "is incomplete" in caplog.text


def test_unused_videos_are_pruned(tmp_path: Path) -> None:
    cache = make(tmp_path / "store", tmp_path / "work", range(10), shard_megabytes=0.00001)  # a shard for each video
    cache.prune({key_of(3)})
    files = list((tmp_path / "work" / "shards").glob("*.arrow"))
    assert [Shard(file).member(0).key for file in files] == [key_of(3)]


def test_the_list_of_a_cache_says_what_its_shards_contain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "store", tmp_path / "work", range(10), shard_megabytes=0.1)
    with monkeypatch.context() as patch:
        patch.delattr(Shard, "member")  # a shard's record batches are not read
        listed = FrameCache(tmp_path / "work")
    assert listed_keys(tmp_path / "work") == {key_of(number) for number in range(10)}
    (tmp_path / "work" / PLACES_FILE).unlink()
    members = [listed.member("a", key_of(number)) for number in range(10)]
    unlisted = FrameCache(tmp_path / "work")
    assert members == [unlisted.member("a", key_of(number)) for number in range(10)]
    assert listed_keys(tmp_path / "work") == frozenset()


def test_a_listed_shard_that_is_missing_or_incomplete_is_not_used(tmp_path: Path) -> None:
    make(tmp_path / "store", tmp_path / "work", range(10), shard_megabytes=0.1)
    missing, incomplete, *_ = sorted((tmp_path / "work" / "shards").glob("*.arrow"))
    lost = {Shard(file).member(number).key for file in (missing, incomplete) for number in range(len(Shard(file)))}
    missing.unlink()
    content = incomplete.read_bytes()
    incomplete.unlink()  # the store has the same file
    incomplete.write_bytes(content[:1000])
    cache = FrameCache(tmp_path / "work")
    assert {key_of(number) for number in range(10) if key_of(number) not in cache} == lost
    assert not incomplete.exists()


def test_a_folder_without_a_store_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="reelnest preprocess"):
        FrameStore.open(tmp_path)
    (tmp_path / "index.arrow").write_bytes(b"ARROW1 and nothing else")
    with pytest.raises(DataError, match="reelnest preprocess"):
        FrameStore.open(tmp_path)


def test_a_store_that_was_prepared_for_another_model_family_is_rejected(tmp_path: Path) -> None:
    make(tmp_path / "store", tmp_path / "work", range(2))
    store = FrameStore.open(tmp_path / "store")
    assert store.vision == VISION
    store.require(VISION)
    different_spec = replace(VISION, patch_size=16, std=(0.5, 0.5, 0.5))
    with pytest.raises(DataError, match=r"another model family \(patch_size 14, not 16; std \(0\.26.*\), not \(0\.5.*reelnest preprocess"):
        store.require(different_spec)


def test_the_key_changes_with_the_bytes_and_the_settings_that_matter(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(b"some bytes")
    second.write_bytes(b"others")

    def key(files: list[Path], sampling: Preprocess, vision: VisionSpec = VISION) -> str:
        return video_key(files, FrameSettings(sampling, vision))

    base = key([first], Preprocess())
    assert key([first], Preprocess()) == base
    assert key([first], Preprocess(shard_megabytes=1, scheduler="tcp://host:1", fps=9.0)) == base
    different = [
        key([second], Preprocess()),
        key([first, second], Preprocess()),
        key([second, first], Preprocess()),
        key([first], Preprocess(frames=10)),
        key([first], Preprocess(max_pixels=12544)),
        key([first], Preprocess(min_pixels=784)),
        key([first], Preprocess(sampling="fps")),
        key([first], Preprocess(decoder="pyav")),
        key([first], Preprocess(sampling="fps", fps=1.0)),
        key([first], Preprocess(), replace(VISION, patch_size=16)),
        key([first], Preprocess(), replace(VISION, mean=(0.5, 0.5, 0.5))),
    ]
    assert len({base, *different}) == 1 + len(different)
