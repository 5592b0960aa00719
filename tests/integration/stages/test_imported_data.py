"""An importer that another package registers: what it imports passes the validation."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from reelnest.records.importers.importer import IMPORTERS, Origin, PairRow, Row, VideoRow
from reelnest.records.importing import import_data
from reelnest.settings import Params
from reelnest.stages import validate
from reelnest.stages.workspace import Workspace
from tests.integration.conftest import MakeVideo


def read_folders(source: Path) -> Iterator[Row]:
    """A folder of clips, each with its words in a file beside it."""
    for row, words in enumerate(sorted(source.glob("*.txt")), start=1):
        name = f"videos/{words.stem}.mp4"
        yield VideoRow(Origin(words.name, row), {"video_id": words.stem, "path": name}, {name: words.with_suffix(".mp4")})
        for line, text in enumerate(words.read_text().splitlines(), start=1):
            record = {"query": {"text": text}, "target": {"video": words.stem}, "split": "test" if row == 1 else "train"}
            yield PairRow(Origin(words.name, line), record)


def test_imported_data_passes_the_validation(make_video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    IMPORTERS.names()  # loads those of the package, so that the copy holds them
    monkeypatch.setattr(IMPORTERS, "_by_name", dict(IMPORTERS._by_name))
    IMPORTERS.register("clips with words")(read_folders)
    source = tmp_path / "clips"
    source.mkdir()
    for number, name in enumerate(("cat", "dog")):
        make_video(f"{name}{number}.mp4", frames=24 + number).rename(source / f"{name}.mp4")
        (source / f"{name}.txt").write_text(f"a {name}\nthe {name} that runs\n")
    workspace = Workspace(tmp_path / "project")
    workspace.root.mkdir()
    imported = import_data("clips with words", source, workspace.data)
    assert (imported.videos, imported.pairs, imported.skipped) == (2, 4, ())
    validate.run(workspace, Params())
    report = json.loads((workspace.reports / "validation.json").read_text())
    assert all(found["success"] for found in report["expectations"] if found["severity"] == "critical")
    assert (workspace.reports / "quarantine.jsonl").read_text() == ""
