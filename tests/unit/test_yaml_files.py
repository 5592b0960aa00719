"""YAML as DVC reads it, and as `reelnest params` prints it."""

from typing import Any

import pytest

from reelnest.settings import Params
from reelnest.yaml_files import YAMLError, dump_yaml, load_yaml, yaml_problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("1e-3", 0.001),
        ("0o17", 15),
        ("010", 10),
        ("~", None),
        ("12:30", "12:30"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, expected: Any) -> None:
    value = load_yaml(f"key: {text}")["key"]
    assert value == expected
    assert type(value) is type(expected)


def test_a_key_that_occurs_twice_is_an_error() -> None:
    with pytest.raises(YAMLError, match="duplicate key"):
        load_yaml("epochs: 1\nepochs: 2\n")


def test_printed_settings_are_read_back_in_order() -> None:
    settings = Params().model_dump(mode="json", by_alias=True)
    text = dump_yaml(settings)
    assert load_yaml(text) == settings
    assert list(load_yaml(text)) == list(settings)
    assert text.splitlines()[0] == "data:"


def test_texts_in_any_script_are_printed_unescaped() -> None:
    assert (
        dump_yaml({"query_instruction": "Найди видео: «кольцо»", "projection": None})
        == "query_instruction: 'Найди видео: «кольцо»'\nprojection: null\n"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: [1", "line 3: expected ',' or ']', but got '<stream end>'"),
        ("a:\n  b: 1\n - 2", "line 3: expected <block end>, but found '<block sequence start>'"),
        ("a: 1\nb: \x00", "special characters are not allowed"),
    ],
)
def test_what_is_not_yaml_is_explained_in_one_line_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(YAMLError) as raised:
        load_yaml(f"{text}\n")
    assert problem in (explained := yaml_problem(raised.value))
    assert "\n" not in explained
