"""Texts and titles that almost repeat those of the train split, and the scripts of each split: warnings, and counts in the report."""

from pathlib import Path

import pytest
from PIL import Image

from reelnest.settings import Params, Validate
from reelnest.stages import validate
from reelnest.stages.workspace import Workspace
from tests.integration.stages.validated_data import report, write_lines

REPEATED_TEXT = "no text of the validation or test split almost repeats one of the train split"
REPEATED_TITLE = "no title of the validation or test split almost repeats one of the train split"
QUERIES, TARGETS = "queries have the same scripts in train and test", "targets have the same scripts in train and test"
TITLES = "titles have the same scripts in train and test"
TRAINED, TESTED = "how to tie a bowline knot quickly", "How to tie a bowline knot quickly?"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Two videos with almost the same title, and 242 pairs: a tenth of the queries of train and a third of those of test are Cyrillic."""
    made = Workspace(tmp_path)
    made.data.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(made.data / "frame.png")
    names = {"first": "Grandmother's apple pie", "second": "Grandmothers apple pie"}
    write_lines(made.data / "videos.jsonl", *({"video_id": name, "images": ["frame.png"], "title": title} for name, title in names.items()))
    pairs = [
        {"query": TRAINED, "target": {"video": "first"}, "split": "train"},
        {"query": TESTED, "target": {"video": "second"}, "split": "test"},
    ]
    for split, is_cyrillic in (("train", lambda number: number % 10 == 0), ("test", lambda number: number % 3 == 0)):
        for number in range(120):
            word = chr(0x430 + number % 30) * 3 if is_cyrillic(number) else chr(ord("a") + number % 26) * 3
            query = f"{word}{number**5}{split if not is_cyrillic(number) else ''}"
            pairs.append({"query": query, "target": {"text": f"{split}{number**7}"}, "split": split})
    write_lines(made.data / "pairs.jsonl", *pairs)
    return made


def flagged(workspace: Workspace, settings: Validate) -> dict[str, list[int]]:
    """The lines by the description of the advice on texts that is not met."""
    validate.run(workspace, Params(validation=settings))
    names = {REPEATED_TEXT, REPEATED_TITLE, QUERIES, TARGETS, TITLES}
    outcomes = [outcome for outcome in report(workspace)["expectations"] if outcome["description"] in names]
    assert {outcome["description"] for outcome in outcomes} == names
    assert {outcome["severity"] for outcome in outcomes} == {"warning"}
    return {outcome["description"]: outcome["lines"] for outcome in outcomes if not outcome["success"]}


def test_repeated_texts_and_other_scripts_are_warnings_with_texts_lines_and_counts(workspace: Workspace) -> None:
    assert flagged(workspace, Validate()) == {REPEATED_TEXT: [2], REPEATED_TITLE: [2], QUERIES: []}
    counts = report(workspace)["texts"]
    assert counts["titles"] == {
        split: {"distinct": 1, "near_duplicates": 0, "near_duplicates_of_train": repeated, "scripts": {"Latin": 1}}
        for split, repeated in (("train", 0), ("test", 1))
    }
    assert counts["pairs"]["train"]["near_duplicates_of_train"] == 0
    assert counts["pairs"]["test"]["near_duplicates_of_train"] == 1
    assert counts["pairs"]["test"]["scripts"] == {"Latin": 241 - 40, "Cyrillic": 40}
    page = (workspace.reports / "data_docs" / "index.html").read_text(encoding="utf-8")
    assert f"text: {TESTED} → video: second" in page
    assert f"text: {TRAINED} (line 1)" in page
    assert "Grandmother&#39;s apple pie (line 1)" in page
    assert "Latin 83.4\u00a0%, Cyrillic 16.6\u00a0%" in page


def test_which_texts_are_flagged_depends_on_the_settings(workspace: Workspace) -> None:
    assert flagged(workspace, Validate(min_near_duplicate_similarity=1.0)).keys() == {QUERIES}
    assert flagged(workspace, Validate(max_script_difference=0.3)).keys() == {REPEATED_TEXT, REPEATED_TITLE}
    assert flagged(workspace, Validate(max_script_difference=0.2)).keys() == {REPEATED_TEXT, REPEATED_TITLE, QUERIES}
