"""Searching an index, with the functions and with the command."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import reelnest
from reelnest.commands import search as stage
from reelnest.commands.index import open_searchers
from reelnest.commands.search_inputs import Query
from reelnest.engines.folder import FolderEngine
from reelnest.errors import ModelError, QueryError
from reelnest.serving.searcher import Searcher
from tests.integration.serving.served_corpus import PARAMS, Served


@pytest.fixture(scope="module")
def searcher(served: Served) -> Searcher:
    (opened,) = open_searchers(served.workspace, PARAMS, [str(served.root / "one")])
    return opened


@pytest.mark.parametrize("dim", [None, 16, 100])
def test_results_equal_numpy(served: Served, searcher: Searcher, dim: int | None) -> None:
    model = reelnest.load(served.root / "models/one", device="cpu")
    query = model.encode_texts(["a red circle"], dim=dim)[0]
    vectors = np.load(served.root / "one/vectors.npy")[:, : dim or 128]
    scores = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ query
    results = searcher.words("a red circle", 21, dim=dim)
    np.testing.assert_allclose([hit.score for hit in results.hits], np.sort(scores)[::-1], atol=1e-5)
    assert results.untrained == ((100,) if dim == 100 else ())


def test_a_funnel_reorders_its_shortlist_at_the_full_width(served: Served, searcher: Searcher) -> None:
    full = searcher.words("a red circle", 21)
    funnel = searcher.words("a red circle", 21, dim=16, funnel=True)  # the shortlist holds all of this corpus
    assert [hit.video_id for hit in funnel.hits] == [hit.video_id for hit in full.hits]
    assert funnel.dims == (16, 128)
    assert searcher.words("a red circle", 3, funnel=True).dims == (16, 128)
    small = Searcher(FolderEngine(str(served.root / "one")), str(served.root / "one"), searcher.model, shortlist=4, most_characters=100)
    shortlist = {hit.video_id for hit in small.words("a red circle", 4, dim=16).hits}
    assert {hit.video_id for hit in small.words("a red circle", 4, dim=16, funnel=True).hits} == shortlist


def test_a_video_finds_itself(served: Served, searcher: Searcher) -> None:
    results = searcher.video(served.data / "videos/07.mp4", 5)
    assert len(results.hits) == 5
    assert results.hits[0].score > 0.5


@pytest.mark.parametrize("text", ["подвижный круг", "動く円", "دائرة حمراء", "🔴➡️", "a\0b", "half \ud800 a pair"])
def test_any_script_is_searched(searcher: Searcher, text: str) -> None:
    assert len(searcher.words(text, 3).hits) == 3


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (" \n", {}, "empty"),
        ("?! …", {}, "no letters or digits"),
        ("a" * 100_000, {}, "100,000 characters"),
        ("a", {"dim": 0}, "16, 64, 128"),
        ("a", {"dim": 129}, "16, 64, 128"),
        ("a", {"dim": 129, "funnel": True}, "16, 64, 128"),
        ("a", {"k": 0}, "1 to 1000"),
    ],
)
def test_an_invalid_search_is_refused_with_its_reason(searcher: Searcher, text: str, options: dict[str, int], words: str) -> None:
    with pytest.raises(QueryError, match=words):
        searcher.words(text, **{"k": 5, **options})


def test_vectors_of_another_model_are_not_searched(served: Served) -> None:
    with pytest.raises(ModelError, match="cannot be compared"):
        open_searchers(served.workspace, PARAMS, [str(served.root / "one")], str(served.root / "models/two"))


def test_an_index_with_nan_is_not_ranked(copy: Served, searcher: Searcher) -> None:
    place = copy.root / "one"
    vectors = np.load(place / "vectors.npy")
    vectors[5, 3] = float("nan")
    np.save(place / "vectors.npy", vectors)
    with pytest.raises(ModelError, match="NaN"):
        Searcher(FolderEngine(str(place)), str(place), searcher.model, shortlist=9, most_characters=99).words("a", 3)


def test_indexes_of_one_model_share_it_and_move_with_it(copy: Served) -> None:
    shutil.copytree(copy.root / "one", copy.root / "again")
    first, two, again = open_searchers(copy.workspace, PARAMS, [str(copy.root / name) for name in ("one", "two", "again")])
    assert first.model is again.model
    assert first.model is not two.model
    moved = Path(shutil.move(copy.root, copy.root.with_name("moved")))
    assert "clip/01" in stage.run(copy.workspace, PARAMS, str(moved / "one"), Query("a red circle", k=21))


def test_the_command_prints_a_table_or_json(served: Served) -> None:
    program = str(Path(sys.executable).with_name("reelnest"))
    command = [program, "search", "a red circle", "--index", "one", "-k", "3", "--dim", "17", "--funnel"]
    lines = subprocess.run(command, cwd=served.root, capture_output=True, text=True, timeout=120, check=True).stdout.splitlines()
    assert lines[0].split() == ["rank", "score", "video_id", "title", "path"]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert "21 videos, a shortlist with 17 dims, re-ranked with 128" in lines[-1]
    assert "not trained for 17 dims" in lines[-1]
    results = json.loads(stage.run(served.workspace, PARAMS, str(served.root / "one"), Query("a red circle", k=3), as_json=True))
    assert [hit["rank"] for hit in results["hits"]] == [1, 2, 3]
