"""Videos inside tar files: found, compared, merged, imported, and refused with a reason."""

import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from reelnest.errors import VideoError
from reelnest.records.changes import read_contents
from reelnest.records.files import tar_members
from reelnest.records.files.tar_members import find_member, open_bytes, same_bytes, stored_name
from reelnest.records.formats import read_videos, video_files
from reelnest.records.importing import import_data
from reelnest.records.merging import merge
from reelnest.video import known_videos
from reelnest.video.input_files import open_file
from reelnest.video.known_videos import Content, KnownVideos
from tests.support.video_keys import content_of

LONG = f"{'folder/' * 30}{'n' * 120}.mp4"
"""Longer than the field of a tar header."""


def write_tar(file: Path, members: Sequence[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT, mode: str = "w") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode, format=kind) as tar:  # type: ignore[call-overload]  # a parameter of the test
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


def read(file: Path) -> bytes:
    with open_bytes(file) as blocks:
        return b"".join(blocks)


def reason_of(file: Path) -> tuple[str, str]:
    with pytest.raises(VideoError) as raised:
        find_member(file)
    assert str(file.parent) not in str(raised.value)
    return raised.value.reason, str(raised.value)


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_have_the_bytes_that_tarfile_extracts(kind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "BLOCK_BYTES", 7)
    names = ["a.mp4", "./b/c.mp4", "é ü.mp4"] + [LONG] * (kind != tarfile.USTAR_FORMAT)
    tar = write_tar(tmp_path / "x.tar", [(name, name.encode() * 9) for name in names], kind)
    with tarfile.open(tar) as opened:
        for name in names:
            extracted = opened.extractfile(name)
            assert extracted is not None
            assert read(tar / name) == extracted.read() == name.encode() * 9
    member = find_member(tar / "a.mp4")
    assert member is not None
    assert b"".join(member.blocks(3, 40)) == (b"a.mp4" * 9)[3:40]
    assert find_member(tmp_path / "plain" / "a.mp4") is None


def test_a_tar_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", [("a.mp4", b"1234")])
    assert read(tar / "a.mp4") == b"1234"
    assert reason_of(tar / "b.mp4")[0] == "missing"
    write_tar(tar, [("b.mp4", b"5678")], mode="a")
    assert (read(tar / "a.mp4"), read(tar / "b.mp4")) == (b"1234", b"5678")


def test_what_cannot_be_read_in_place_is_refused_with_its_reason(tmp_path: Path) -> None:
    content = [("a.mp4", b"1" * 1000), ("b.mp4", b"2" * 1000), ("b.mp4", b"3"), ("empty.mp4", b"")]
    compressed = write_tar(tmp_path / "x.tar.gz", content, mode="w:gz")
    assert reason_of(compressed / "a.mp4") == (
        "compressed_tar",
        "x.tar.gz/a.mp4: files in a compressed archive cannot be read in place; unpack x.tar.gz to a .tar file",
    )
    disguised = tmp_path / "disguised.tar"
    disguised.write_bytes(compressed.read_bytes())
    reason, text = reason_of(disguised / "a.mp4")
    assert (reason, "uncompressed" in text) == ("truncated", True)
    tar = write_tar(tmp_path / "x.tar", content)
    assert reason_of(tar / "b.mp4")[0] == "duplicate_member"
    assert reason_of(tar / "c.mp4") == ("missing", "x.tar has no file c.mp4; correct the path, or add it to the tar file")
    cut = tmp_path / "cut.tar"
    for size, reasons in ((2048 + 500, ("truncated", "truncated")), (1536, ("", "truncated")), (900, ("truncated", "truncated"))):
        cut.write_bytes(tar.read_bytes()[:size])
        for name, expected in zip(("a.mp4", "b.mp4"), reasons, strict=True):
            if expected and not (size > 1536 and name == "a.mp4"):
                assert reason_of(cut / name)[0] == expected
    cut.write_bytes(b"")
    assert reason_of(cut / "a.mp4")[0] == "truncated"


def test_members_that_are_links_or_have_names_outside_are_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.mp4"
    outside.write_bytes(b"outside")
    tar = tmp_path / "data" / "x.tar"
    tar.parent.mkdir()
    with tarfile.open(tar, "w") as opened:
        for name, kind in (("soft.mp4", tarfile.SYMTYPE), ("hard.mp4", tarfile.LNKTYPE), ("pipe.mp4", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(outside)
            opened.addfile(member)
        member = tarfile.TarInfo("../outside.mp4")
        member.size = 3
        opened.addfile(member, io.BytesIO(b"abc"))
    for name in ("soft.mp4", "hard.mp4", "pipe.mp4"):
        assert reason_of(tar / name)[0] == "missing"
    records = [{"video_id": "v", "path": "x.tar/../outside.mp4"}, {"video_id": "w", "path": "../outside.mp4"}]
    (tar.parent / "videos.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    assert [record.reason for record in read_videos(tar.parent)[1]] == ["unsafe_path", "unsafe_path"]
    (tar.parent / "link.tar").symlink_to(write_tar(tmp_path / "outside.tar", [("a.mp4", b"1")]))
    (tar.parent / "videos.jsonl").write_text(json.dumps({"video_id": "v", "path": "link.tar/a.mp4"}) + "\n")
    assert [record.reason for record in read_videos(tar.parent)[1]] == ["unsafe_path"]


def test_a_decoder_gets_the_member_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write_tar(tmp_path / "x.tar", [("secret", b"secret"), ("a.mp4", b"1234")])
    for largest in (100, 1):
        monkeypatch.setattr("reelnest.video.input_files.LARGEST_IN_MEMORY", largest)
        with os.fdopen(open_file(tar / "a.mp4"), "rb") as opened:
            assert opened.read() == b"1234"


def test_a_member_is_hashed_once_and_has_the_content_of_a_plain_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tmp_path / "a.mp4"
    plain.write_bytes(b"1234")
    tar = write_tar(tmp_path / "x.tar", [("a.mp4", b"1234"), ("b.mp4", b"5678")])
    monkeypatch.setattr(known_videos, "UNSETTLED_SECONDS", -1e9)
    hashed: list[Path] = []
    digest = known_videos._digest
    monkeypatch.setattr(known_videos, "_digest", lambda file: (hashed.append(file), digest(file))[1])

    def contents() -> list[Content | VideoError]:
        with KnownVideos(tmp_path / "cache") as known:
            return [content for _, content in known.contents([[tar / "a.mp4"], [tar / "b.mp4"]], lambda files: files)]

    first = contents()
    assert first[0] == content_of([plain]) != first[1]
    count = len(hashed)
    assert contents() == first
    assert len(hashed) == count
    write_tar(tar, [("a.mp4", b"4321"), ("b.mp4", b"5678")])
    changed = contents()
    assert changed[0] != first[0]
    assert changed[1] == first[1]


def webdataset(folder: Path) -> Path:
    for shard in ("train/000.tar", "test/000.tar"):
        write_tar(folder / shard, [(f"{shard[:4]}.mp4", shard.encode()), (f"{shard[:4]}.txt", f"words of {shard}\n".encode())])
    return folder


def test_an_imported_webdataset_keeps_its_shards_and_can_be_added(tmp_path: Path) -> None:
    imported = import_data("webdataset-shards", webdataset(tmp_path / "source"), tmp_path / "imported")
    assert (imported.videos, imported.pairs, imported.reasons) == (2, 2, {})
    videos, bad = read_videos(tmp_path / "imported")
    assert not bad
    assert [video.path for video in videos] == ["shards/test/000.tar/test.mp4", "shards/train/000.tar/trai.mp4"]
    assert [read(*video_files(video, tmp_path / "imported")) for video in videos] == [b"test/000.tar", b"train/000.tar"]
    data = tmp_path / "data"
    data.mkdir()
    for name in ("videos.jsonl", "pairs.jsonl"):
        (data / name).write_text("")
    into = tmp_path / "into"
    into.mkdir()
    merge([tmp_path / "imported"], data, into, replacing=False)
    assert (into / "shards/test/000.tar").read_bytes() == (tmp_path / "source/test/000.tar").read_bytes()
    assert same_bytes(into / "shards/test/000.tar/test.mp4", tmp_path / "source/test/000.tar/test.mp4")
    assert not same_bytes(into / "shards/test/000.tar/test.mp4", into / "shards/train/000.tar/trai.mp4")
    again = tmp_path / "again"
    again.mkdir()
    assert not merge([tmp_path / "imported"], into, again, replacing=False)
    assert stored_name("shards/test/000.tar/test.mp4", into) == "shards/test/000.tar"
    contents = read_contents(into, {"shards/test/000.tar": "hash"}, 0.1, 0.1)
    assert sorted(contents.hashes.values()) == [("",), ("hash",)]
