"""The structure of the code: sizes, layers, declared dependencies, and plain words in names. `make check` runs this file."""

import ast
import functools
import re
import statistics
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("src/reelnest", "flows", "tasks")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

MOST_LINES = 350
REASON_FOR_LENGTH = f"Longer than {MOST_LINES} lines because"
MEDIAN_LINES = 120
MOST_MODULES = 14
MOST_FUNCTION_LINES = 80
MOST_PARAMETERS = 7
MANY_PARAMETERS = {
    "src/reelnest/backbones/attention.py: grouped_sdpa": "transformers gives an attention function these",
    "src/reelnest/backbones/attention.py: packed_sdpa": "transformers gives an attention function these",
}
"""Functions that may have more parameters, with the reason. Functions of `cli.py` are exempt, because their parameters are options."""
COMMAND_LINE = ("src/reelnest/cli.py", "src/reelnest/cli_data.py", "src/reelnest/cli_search.py")

# fmt: off
FORBIDDEN_WORDS = (
    "foretell", "foretold", "judging", "tells", "keeps", "barred", "stranger", "strangers", "see", "leftover", "offers", "these", "says",
    "stands", "lies", "doors", "rooms", "same_side", "right_answers", "answer", "answers", "answered", "judge", "judged", "told", "asked",
    "wanted", "kept", "whole_file", "whole_folder", "whole_root",
)
FORBIDDEN_NAMES = {"found", "one", "other", "lacking", "part", "order", "position", "thing", "things", "said", "whole"}
# fmt: on
"""Words that names must not contain, and words that must not be a name, because a plainer or more exact word exists."""


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{relative(path)}: {node.name}", node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def identifiers(path: Path) -> Iterator[tuple[str, int]]:
    """Every name that a module defines or uses, and the module's name, each with its line."""
    yield path.stem, 1
    for node in ast.walk(tree(path)):
        match node:
            case ast.Name():
                yield node.id, node.lineno
            case ast.Attribute():
                yield node.attr, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.keyword(arg=str(name)):
                yield name, node.value.lineno


def words(identifier: str) -> list[str]:
    """The words of a name in snake case, upper case or camel case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", identifier)]


def layers() -> list[str]:
    """The full names of all packages and modules in the layer contracts."""
    contracts = [contract for contract in PROJECT["tool"]["importlinter"]["contracts"] if contract["type"] == "layers"]
    return [
        f"{container}.{name}"
        for contract in contracts
        for container in contract.get("containers", [""])
        for layer in contract["layers"]
        for name in re.split(r"\s*[|:]\s*", layer)
    ]


def test_a_long_file_has_its_reason_in_its_docstring() -> None:
    long = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    excused = {relative(path) for path in FILES if REASON_FOR_LENGTH in (ast.get_docstring(tree(path)) or "")}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES and name not in excused} == {}


def test_half_of_the_files_fit_on_a_few_screens() -> None:
    assert statistics.median(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES) <= MEDIAN_LINES


def test_no_package_has_many_modules() -> None:
    modules = Counter(relative(path.parent) for path in FILES if path.name != "__init__.py")
    assert {package: count for package, count in modules.items() if count > MOST_MODULES} == {}


def test_every_package_has_a_docstring() -> None:
    assert [relative(path) for path in FILES if path.name == "__init__.py" and not ast.get_docstring(tree(path))] == []


def test_no_function_is_long() -> None:
    lengths = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions()}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_FUNCTION_LINES} == {}


def test_no_function_has_many_parameters() -> None:
    counts = {name: parameters(node) for name, node in functions() if not name.startswith(COMMAND_LINE)}
    many = {name: count for name, count in counts.items() if count > MOST_PARAMETERS}
    assert {name: count for name, count in many.items() if name not in MANY_PARAMETERS} == {}
    assert set(MANY_PARAMETERS) <= set(many), "remove functions with fewer parameters from MANY_PARAMETERS"


@pytest.mark.parametrize(("container", "folder"), [("reelnest", "src/reelnest"), ("tasks", "tasks")])
def test_the_import_contract_names_every_package(container: str, folder: str) -> None:
    packages = {f"{container}.{path.parent.name}" for path in (ROOT / folder).glob("*/__init__.py")}
    assert packages - set(layers()) == set()
    contracts = [contract for contract in PROJECT["tool"]["importlinter"]["contracts"] if contract["type"] == "layers"]
    assert all(contract.get("exhaustive") for contract in contracts if "containers" in contract)


def test_every_package_that_the_code_imports_is_declared() -> None:
    project = PROJECT["project"]
    requirements = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    declared = {_distribution(requirement) for requirement in requirements}
    distributions = packages_distributions()
    missing = {
        f"{relative(path)}: {name}"
        for path in FILES
        for name in _imports(path)
        if name not in sys.stdlib_module_names and name not in ("reelnest", "flows", "tasks")
        if declared.isdisjoint(map(_distribution, distributions.get(name, [name])))
    }
    assert missing == set()


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def _distribution(requirement: str) -> str:
    """The normalised name of a distribution."""
    name = re.split(r"[\[<>=!;~ ]", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_name_has_a_forbidden_word() -> None:
    sequences = [words(word) for word in FORBIDDEN_WORDS]
    forbidden = [
        f"{relative(path)}:{line}: {name}"
        for path in FILES
        for name, line in identifiers(path)
        if name.lower() in FORBIDDEN_NAMES or any(_contains(words(name), word) for word in sequences)
    ]
    assert forbidden == []


def _contains(name: list[str], word: list[str]) -> bool:
    return any(name[start : start + len(word)] == word for start in range(len(name) - len(word) + 1))


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [("same_side", ["same", "side"]), ("SameSideNegatives", ["same", "side", "negatives"]), ("QRELS_2D", ["qrels", "2", "d"])],
)
def test_a_name_is_split_into_its_words(identifier: str, expected: list[str]) -> None:
    assert words(identifier) == expected
