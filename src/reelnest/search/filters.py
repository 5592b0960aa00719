"""Filters over what is stored beside the vectors of videos: `language == "en" and not genre in ("news", "ads")`.

A filter is a condition in Python's notation. A name is a tag, a text field such as `title`, or `video_id`; `tags["play length"]` is a tag
whose name is not a Python name. A comparison with a text compares characters, so dates such as 2026-11-27 are ordered. A comparison with a
number compares numbers, and texts that are not numbers do not satisfy it. A video without the tag satisfies no comparison but `!=` and
`not in`. Engines compile the tree that `parse_filter` returns.
"""

import ast
import math
import operator
import re
import threading
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from reelnest.errors import QueryError
from reelnest.messages import some_of
from reelnest.records.formats import TEXT_FIELDS

LONGEST_FILTER = 10_000
DEEPEST_FILTER = 50
"""How many conditions may be inside each other. Engines compile them by recursion."""
MOST_DIGITS = 200
"""Digits before the point of a text that is compared as a number."""
NUMBER_PATTERN = r" *[-+]?([0-9]%s[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]{1,2})? *"
NUMBER = re.compile(NUMBER_PATTERN % f"{{1,{MOST_DIGITS}}}")
"""The texts that are compared as numbers. All engines use this pattern."""
UNSTORED = re.compile("[\0\ud800-\udfff]")
EXAMPLE = 'Write conditions such as language == "en" and duration < 30, with and, or, not, in, == != < <= > >=.'

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
"""What the operators of `Compare` mean."""

Value: TypeAlias = str | float


@dataclass(frozen=True)
class OneOf:
    """The field has one of the values, which are all texts or all numbers."""

    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Compare:
    """The field is smaller or larger than a value."""

    field: str
    operator: Literal["<", "<=", ">", ">="]
    value: Value


@dataclass(frozen=True)
class Not:
    """The condition does not hold."""

    condition: "Filter"


@dataclass(frozen=True)
class All:
    """All conditions hold."""

    conditions: tuple["Filter", ...]


@dataclass(frozen=True)
class AnyOf:
    """At least one condition holds."""

    conditions: tuple["Filter", ...]


Filter: TypeAlias = OneOf | Compare | Not | All | AnyOf

_PARSING = threading.Lock()
"""Before Python 3.11.8, two threads that parse at once can fail: https://github.com/python/cpython/issues/106905."""
_ORDERS: dict[type[ast.cmpop], Literal["<", "<=", ">", ">="]] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_MIRRORED: dict[str, Literal["<", "<=", ">", ">="]] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def parse_filter(text: str, tags: Collection[str]) -> Filter:
    """Parses a filter over videos that have `tags`. Raises QueryError that quotes what cannot be used and says what is expected."""
    if len(text) > LONGEST_FILTER:
        raise QueryError(f"The filter has {len(text):,} characters; the limit is {LONGEST_FILTER:,}.")
    try:
        with _PARSING:
            expression = ast.parse(text.strip(), mode="eval").body
        return _Parser(text.strip(), tags).condition(expression)
    except SyntaxError as error:
        raise QueryError(f"The filter {_shown(text)} cannot be read ({error.msg}). {EXAMPLE}") from None
    except (ValueError, RecursionError, MemoryError):
        raise QueryError(f"The filter {_shown(text)} cannot be read. {EXAMPLE}") from None


def number_of(text: str) -> float:
    """Returns the number that a stored text is compared as; NaN for a text that is not a number."""
    return float(text) if NUMBER.fullmatch(text) else math.nan


class _Parser:
    def __init__(self, text: str, tags: Collection[str]) -> None:
        self._text = text
        self._tags = tags
        # Python normalises names, so a tag in decomposed or full-width letters would not be found.
        self._normalised = {unicodedata.normalize("NFKC", tag): tag for tag in tags}

    def condition(self, node: ast.expr, depth: int = 1) -> Filter:
        if depth > DEEPEST_FILTER:
            raise self._error(node, f"is inside {DEEPEST_FILTER} other conditions, which is the limit")
        match node:
            case ast.BoolOp(op=ast.And(), values=conditions):
                return All(tuple(self.condition(inner, depth + 1) for inner in conditions))
            case ast.BoolOp(values=conditions):
                return AnyOf(tuple(self.condition(inner, depth + 1) for inner in conditions))
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                return Not(self.condition(inner, depth + 1))
            case ast.Compare(left=left, ops=operators, comparators=rest):
                sides = [left, *rest]
                compared = tuple(self._comparison(node, *each) for each in zip(sides, operators, sides[1:], strict=False))
                return compared[0] if len(compared) == 1 else All(compared)
        raise self._error(node, "is not a comparison")

    def _comparison(self, node: ast.expr, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Filter:
        match operator:
            case ast.In() | ast.NotIn():
                condition: Filter = OneOf(self._field(left), self._values(right))
                return condition if isinstance(operator, ast.In) else Not(condition)
            case ast.Is() | ast.IsNot():
                raise self._error(node, "compares with `is`; use ==")
        mirrored = _is_field(right) and not _is_field(left)
        field, value = (self._field(right), self._value(left)) if mirrored else (self._field(left), self._value(right))
        if isinstance(operator, ast.Eq | ast.NotEq):
            return OneOf(field, (value,)) if isinstance(operator, ast.Eq) else Not(OneOf(field, (value,)))
        sign = _ORDERS[type(operator)]
        return Compare(field, _MIRRORED[sign] if mirrored else sign, value)

    def _field(self, node: ast.expr) -> str:
        match node:
            case ast.Name(id=name) if name == "video_id" or name in TEXT_FIELDS or name in self._tags:
                return name
            case ast.Name(id=name) if name in self._normalised:
                return self._normalised[name]
            case ast.Subscript(value=ast.Name(id="tags"), slice=ast.Constant(value=str(name))) if name in self._tags:
                return name
            case ast.Name() | ast.Subscript():
                listed = some_of(sorted(self._tags), most=20) or "none"
                raise self._error(node, f"is not a field of this index's videos. Their tags: {listed}. Others: {', '.join(TEXT_FIELDS)}")
        raise self._error(node, "is not the name of a tag or a text field")

    def _values(self, node: ast.expr) -> tuple[Value, ...]:
        if not isinstance(node, ast.Tuple | ast.List | ast.Set) or not node.elts:
            raise self._error(node, 'is not a list of values, such as ("en", "de")')
        values = tuple(map(self._value, node.elts))
        if len({isinstance(value, str) for value in values}) > 1:
            raise self._error(node, "mixes texts and numbers")
        return values

    def _value(self, node: ast.expr) -> Value:
        match node:
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int(number) | float(number))) if _is_number(
                number
            ):
                return -float(number) if isinstance(sign, ast.USub) else float(number)
            case ast.Constant(value=str(text)) if not UNSTORED.search(text):
                return text
            case ast.Constant(value=int(number) | float(number)) if _is_number(number):
                return float(number)
            case ast.Constant(value=str()):
                raise self._error(node, "has a character that no index stores (NUL, or half a surrogate pair)")
        raise self._error(node, "is not a text in quotes or a number")

    def _error(self, node: ast.expr, problem: str) -> QueryError:
        source = ast.get_source_segment(self._text, node) or self._text
        return QueryError(f"In the filter, {_shown(source)} {problem}. {EXAMPLE}")


def _is_number(number: float) -> bool:
    try:
        return not isinstance(number, bool) and math.isfinite(number)
    except OverflowError:  # an integer beyond all floats
        return False


def _is_field(node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Subscript)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:79]}…")
