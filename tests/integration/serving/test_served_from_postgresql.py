"""An index in PostgreSQL, made, updated and searched with the commands: it finds what the folder's index finds."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from reelnest.commands import search as stage
from reelnest.commands.search_inputs import Query
from tests.integration.serving.served_corpus import PARAMS, Served, read_videos, write_videos

REELNEST = str(Path(sys.executable).with_name("reelnest"))


def run(command: Sequence[str], folder: Path) -> str:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_take_an_address_in_place_of_a_folder(copy: Served, database_address: str) -> None:
    address, model = database_address, str(copy.root / "models/one")
    index = [REELNEST, "index", "--model", model, "--to", address]
    shown = run(index, copy.root)
    assert "21 videos at 128 dims (21 encoded now)" in shown
    assert "1 videos were left out:" in shown
    assert address not in shown  # which may hold a password
    search = [REELNEST, "search", "a red circle", "--json", "-k", "21", "--index", address]
    by_command = json.loads(run([*search, "--dim", "16", "--funnel"], copy.root))
    for options in ({}, {"dim": 16}, {"dim": 16, "funnel": True}):
        query = Query("a red circle", k=21, **options)  # type: ignore[arg-type]  # options of each case
        by_folder, by_server = (
            json.loads(stage.run(copy.workspace, PARAMS, place, query, as_json=True)) for place in (str(copy.root / "one"), address)
        )
        assert [hit["video_id"] for hit in by_server["hits"]] == [hit["video_id"] for hit in by_folder["hits"]]
        assert [hit["score"] for hit in by_server["hits"]] == pytest.approx([hit["score"] for hit in by_folder["hits"]], abs=1e-6)
        assert by_server["hits"][0]["fields"] == by_folder["hits"][0]["fields"]
        assert by_server["dims"] == by_folder["dims"]
    assert (by_command["hits"], by_command["dims"]) == (by_server["hits"], by_server["dims"])
    write_videos(copy.data, read_videos(copy.data)[1:])
    assert "20 videos at 128 dims (0 encoded now)" in run(index, copy.root)
    assert len(json.loads(run(search, copy.root))["hits"]) == 20
