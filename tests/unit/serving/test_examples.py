"""The example searches of a data folder."""

import json
from pathlib import Path

from reelnest.serving.examples import example_searches


def test_an_example_can_be_sent_as_json(tmp_path: Path) -> None:
    r"""JSON's `\ud800` is half a character. A response that contained it would fail as a whole."""
    texts = ("a red \ud800 ring", "a blue ring")
    pairs = [{"query": {"text": text}, "target": {"video": "a"}} for text in texts]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (tmp_path / "videos.jsonl").write_text(json.dumps({"video_id": "a", "title": "half \ud83d"}) + "\n")
    assert example_searches(tmp_path) == ["a blue ring"]
    (tmp_path / "pairs.jsonl").unlink()
    assert example_searches(tmp_path) == []
