import json
from pathlib import Path

import pytest

from reelnest.atomic_files import aside_of, atomic_folder, atomic_write, exchange_folders, orphans_of, write_json, write_lines


def test_a_file_keeps_its_content_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_lines(path, ["first"])
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.writelines(b"half" for half in (1, 0) if 1 // half)
    assert path.read_text() == "first\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_keeps_its_content_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "docs"
    with atomic_folder(path) as folder:
        (folder / "old").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_folder(path) as folder:
        (folder / "new" / "too deep").write_text("new")
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_folder_replaces_the_old_one_with_all_its_files(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "docs") as folder:
            (folder / name).write_text(name)
    assert [file.name for file in (tmp_path / "docs").iterdir()] == ["new"]


def test_equal_values_give_equal_json(tmp_path: Path) -> None:
    write_json(tmp_path / "sub" / "a.json", {"b": "é", "a": [1]})
    assert (tmp_path / "sub" / "a.json").read_bytes() == '{\n  "a": [\n    1\n  ],\n  "b": "é"\n}\n'.encode()


def test_nan_is_rejected_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_json(tmp_path / "a.json", json.loads("{}"))
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_exchanged_folders_have_each_others_names(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / folder.name).touch()
    exchange_folders(first, second)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*/*"))] == ["first/second", "second/first"]


def test_only_temporary_paths_are_orphans(tmp_path: Path) -> None:
    data = tmp_path / "data[1]"
    asides = sorted(aside_of(data) for _ in range(2))
    others = [tmp_path / ".data[1].backup", tmp_path / f".data[1].v2.{16 * 'a'}", aside_of(tmp_path / "data1"), data]
    for path in (*asides, *others):
        path.mkdir()
    assert orphans_of(data) == asides
    assert orphans_of(tmp_path / "missing" / "data") == []
