"""A filtered search equals a search over the satisfying videos alone, in every engine."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from reelnest.engines.engine import Engine, Item, open_engine, write_version
from reelnest.records.formats import Video
from reelnest.search.filters import parse_filter
from tests.integration.engines.test_engines import manifest

COUNT, WIDTH = 300, 16
RNG = np.random.default_rng(1)
VECTORS = RNG.normal(size=(COUNT, WIDTH)).astype(np.float32)
VECTORS[100:200] = VECTORS[:100]  # ties
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
LANGUAGES = ("de", "en", "Zulu", "ä", "en ")
IDS = [f"v{number:03}" for number in range(COUNT)]
ROWS: list[dict[str, Any]] = [
    {"video_id": IDS[at], "language": LANGUAGES[at % 5], "duration": at / 4, "title": f"clip {at % 7}", "day": f"2026-11-{1 + at % 28:02}"}
    for at in range(COUNT)
]
CONDITIONS = [
    'language == "en"',
    'language != "en"',
    'language in ("de", "Zulu", "none")',
    'language not in ("de", "ä")',
    'language > "a"',
    'language <= "en"',
    "duration < 10",
    "10 <= duration < 12.25",
    "duration in (1, 2.5, 900)",
    "duration > 1e6",
    'title == "clip 3" and (duration > 50 or not language == "de")',
    'title >= "clip 3" and not title > "clip 5"',
    'day >= "2026-11-20" and day < "2026-11-25"',
    'not (not (video_id >= "v290")) or video_id == "v007"',
    'video_id != ""',
]


@pytest.fixture
def engine(location: str) -> Iterator[Engine]:
    opened = open_engine(location)
    tags = {"language": {}, "duration": {}, "day": {}, "format": {}}
    about = manifest(COUNT, graph_dim=4).model_copy(update={"tags": tags})
    write_version(opened, about, (Item(video(at), IDS[at], VECTORS[at]) for at in range(COUNT)))
    yield opened
    opened.close()


def video(at: int) -> Video:
    row = ROWS[at]
    tags = {name: str(row[name]) for name in ("language", "duration", "day")}
    if at % 10 == 0:
        tags["format"] = ("4", "4.0", "four", "4k", "1e1")[at // 10 % 5]
    return Video(row["video_id"], f"{at}.mp4", (), {"title": row["title"]}, at + 1, tags)


def ranked(query: np.ndarray[Any, Any], satisfying: list[int], dim: int, k: int) -> list[str]:
    """The best of `satisfying` by cosine at `dim`; ties in the order of the rows."""
    prefixes = VECTORS[satisfying, :dim].astype(np.float64)
    scores = (prefixes @ query[:dim] / np.linalg.norm(prefixes, axis=1)).round(6)
    return [IDS[satisfying[at]] for at in np.lexsort((satisfying, -scores))[:k]]


def test_the_results_are_those_of_the_videos_for_which_python_says_true(engine: Engine) -> None:
    for condition in CONDITIONS:
        check(engine, condition)


def check(engine: Engine, condition: str) -> None:
    satisfying = [at for at, row in enumerate(ROWS) if eval(condition, {"__builtins__": {}}, row)]  # noqa: S307 (the conditions above)
    query = RNG.normal(size=WIDTH).astype(np.float32)
    parsed = parse_filter(condition, engine.manifest.tags)
    for dim, shortlist, expected in ((16, None, 16), (4, None, 4), (4, COUNT, 16)):
        hits = engine.search(query, 10, dim=dim, shortlist=shortlist, condition=parsed)
        assert list(hits.ids) == ranked(query, satisfying, expected, 10), condition


def test_a_video_without_the_tag_satisfies_only_what_is_not_compared(engine: Engine) -> None:
    query = VECTORS[0]

    def count(condition: str) -> int:
        return len(engine.search(query, COUNT, dim=16, condition=parse_filter(condition, ["format"])).ids)

    assert count("format == 4") == 12
    assert count('format == "4"') == 6
    assert count("format < 100") == 18
    assert count("format != 4") == COUNT - 12
    assert count("not format < 100") == COUNT - 18
    assert count('format >= ""') == 30


def test_a_video_has_its_tags(engine: Engine) -> None:
    assert engine.get(["v010"])[0] == video(10)
