"""Random filters over odd values select the same videos in every engine as a loop in Python."""

import operator
import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from reelnest.engines.collections import texts_of
from reelnest.engines.engine import Engine, Item, open_engine, write_version
from reelnest.records.formats import Video
from reelnest.search.filters import DEEPEST_FILTER, All, AnyOf, Compare, Filter, Not, OneOf, number_of, parse_filter
from tests.integration.engines.test_engines import manifest

COUNT, WIDTH, FILTERS = 120, 16, 120
TAGS = ("language", 'its "name"', "back\\slash", "per%cent", "üñ", "class", "")
FIELDS = (*(f"tags[{name!r}]" for name in TAGS), "title", "video_id", "caption")
TEXTS = (
    *(
        "",
        " ",
        "en",
        "EN",
        "en ",
        "ä",
        "a\u0308",
        "%",
        "_",
        "e_",
        "'",
        '"',
        "\\",
        "\\n",
        "a\nb",
        "a\tb",
        "\r",
        "null",
        "=",
        "{}",
        "//",
        "\x01",
    ),
    *(
        "\uffff",
        "\U0001f600",
        "\U0001f601",
        "2026-11-28",
        "0.1",
        "0.10",
        "-0",
        "5",
        "5.0",
        " 5 ",
        "5\n",
        "+5",
        "5.",
        ".5",
        "5e0",
        "٥",
        "nan",
    ),
    *("9007199254740993", "9007199254740992", "0.30000000000000004", "0.3", "1e99", "-1e99", "1e-99", "1e400", "0x5", "5_0", "1" * 200),
    *(
        "9" * 200 + "e99",
        "-" + "9" * 200 + "e99",
        "0." + "0" * 300 + "1e-99",
        "1" * 201,
        "0." + "0" * 193 + "1e-99",
        "." + "0" * 195 + "1e-9",
    ),
)
NUMBERS = (
    *("0", "5", "-5", "+5", "0.1", "0.3", "0.30000000000000004", "9007199254740993", "9007199254740992", "1e99", "-1e99", "1e-99", "1e308"),
    *("-1e308", "-1e300", "-1e299", "1e299", "1" * 200, "1e-320"),
)
SIGNS = {"==": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def videos() -> list[Video]:
    rng = random.Random(0)

    def drawn(names: tuple[str, ...], texts: Sequence[str]) -> dict[str, str]:
        return {name: rng.choice(texts) for name in names if rng.random() < 0.8}

    filled = [text for text in TEXTS if text.strip()]  # a text field is never blank
    ids = [f"v{at}{'%_a' * (at % 2)}" for at in range(COUNT)]
    return [Video(ids[at], f"{at}.mp4", (), drawn(("title", "caption"), filled), at + 1, drawn(TAGS, TEXTS)) for at in range(COUNT)]


VIDEOS = videos()


@pytest.fixture
def engine(location: str) -> Iterator[Engine]:
    opened = open_engine(location)
    vectors = np.random.default_rng(0).normal(size=(COUNT, WIDTH)).astype(np.float32)
    about = manifest(COUNT).model_copy(update={"tags": {name: {} for name in TAGS}})
    write_version(opened, about, (Item(video, video.video_id, vectors[at]) for at, video in enumerate(VIDEOS)))
    yield opened
    opened.close()


def written(rng: random.Random, depth: int) -> str:
    """A random filter."""
    kind = rng.random() if depth else 1
    if kind < 0.5:
        parts = [written(rng, depth - 1) for _ in range(rng.randint(2, 3))]
        return f"({rng.choice((' and ', ' or ')).join(parts)})"
    if kind < 0.65:
        return f"not {written(rng, depth - 1)}"
    field, values = rng.choice(FIELDS), rng.choice((NUMBERS, tuple(map(repr, TEXTS))))
    if rng.random() < 0.3:
        return f"{field} {rng.choice(('in', 'not in'))} ({', '.join(rng.choices(values, k=rng.randint(1, 4)))},)"
    return f"{field} {rng.choice((*SIGNS, '!='))} {rng.choice(values)}"


def holds(condition: Filter, texts: dict[str, str]) -> bool:
    """Whether a video with these texts satisfies a filter."""
    match condition:
        case Not(inner):
            return not holds(inner, texts)
        case All(conditions):
            return all(holds(inner, texts) for inner in conditions)
        case AnyOf(conditions):
            return any(holds(inner, texts) for inner in conditions)
        case OneOf(field, values):
            return any(compared(texts.get(field), "==", value) for value in values)
        case Compare(field, sign, value):
            return compared(texts.get(field), sign, value)


def compared(text: str | None, sign: str, value: str | float) -> bool:
    if text is None:
        return False
    return bool(SIGNS[sign](text if isinstance(value, str) else number_of(text), value))


def test_random_filters_select_what_a_loop_selects(engine: Engine) -> None:
    rng = random.Random(0)
    query = np.ones(WIDTH, np.float32)
    for _ in range(FILTERS):
        text = written(rng, 3)
        condition = parse_filter(text, TAGS)
        expected = {video.video_id for video in VIDEOS if holds(condition, texts_of(video))}
        assert set(engine.search(query, COUNT, dim=WIDTH, condition=condition).ids) == expected, text


def test_the_deepest_filter_is_compiled(engine: Engine) -> None:
    text = "title != 'a'"
    for at in range((DEEPEST_FILTER - 1) // 2):
        text = f"(not {text} or video_id == '{at}')" if at % 2 else f"(not {text} and video_id != '{at}')"
    condition = parse_filter(text, TAGS)
    expected = {video.video_id for video in VIDEOS if holds(condition, texts_of(video))}
    assert set(engine.search(np.ones(WIDTH, np.float32), COUNT, dim=WIDTH, condition=condition).ids) == expected
