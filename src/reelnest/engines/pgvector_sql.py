"""The statements that search a table of vectors with pgvector, and the forms in which it reads a vector."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reelnest.engines.engine import Vector
from reelnest.records.formats import TEXT_FIELDS
from reelnest.search.filters import MOST_DIGITS, NUMBER, NUMBER_PATTERN, All, AnyOf, Compare, Filter, Not, OneOf

LARGEST_ZERO = "2.4703282292062328e-324"
"""Numbers below it round to zero: it is half of the smallest float."""
UNBOUNDED_NUMBER = NUMBER_PATTERN % "+"
"""NUMBER for texts that cannot have more than MOST_DIGITS digits. PostgreSQL takes eight times as long to count them."""


def prefix(kind: str, dim: int) -> str:
    """Returns the SQL of the first `dim` numbers of a row's vector."""
    return f"subvector(vector, 1, {dim:d})::{kind}({dim:d})"


def distance(kind: str, dim: int) -> str:
    """Returns the SQL of the cosine distance to a query's prefix."""
    return f"{prefix(kind, dim)} <=> %(prefix)s::{kind}({dim:d})"


def exact_search(table: str, kind: str, dim: int, k: int, where: str = "") -> str:
    """Returns the best `k` rows at `dim` with their cosines; ties in the order of the rows."""
    measure = distance(kind, dim)
    return f"select video_id, 1 - ({measure}) from {table}{where} order by {measure}, number limit {k:d}"


def funnel_search(table: str, kind: str, dims: tuple[int, int], sizes: tuple[int, int], where: str = "", *, by_graph: bool) -> str:
    """Returns a shortlist of sizes[0] rows at dims[0], of which the best sizes[1] at dims[1] are selected."""
    nearest_first = distance(kind, dims[0])
    if not by_graph:
        nearest_first += ", number"  # ties in the order of the rows; the graph is only searched for an order by distance alone
    shortlist = f"select number, video_id, vector from {table}{where} order by {nearest_first} limit {sizes[0]:d}"
    measure = f"vector <=> %(full)s::{kind}({dims[1]:d})"
    return f"select video_id, 1 - ({measure}) from ({shortlist}) shortlist order by {measure}, number limit {sizes[1]:d}"


def where_clause(condition: Filter, parameters: dict[str, Any]) -> str:
    """Returns the clause of a filter. Its values are added to `parameters`."""
    return f" where {_condition(condition, parameters)}"


def _condition(condition: Filter, parameters: dict[str, Any]) -> str:
    def parameter(value: Any) -> str:
        name = f"filter{len(parameters)}"
        parameters[name] = value
        return f"%({name})s"

    def compared(field: str, value: str | float, comparison: str) -> str:
        column = "video_id" if field == "video_id" else f"({'fields' if field in TEXT_FIELDS else 'tags'} ->> {parameter(field)}::text)"
        if isinstance(value, str):
            side = f'{column} collate "C"'
        else:
            side = _number(column, parameter(f"^(?:{UNBOUNDED_NUMBER})$"), parameter(f"^(?:{NUMBER.pattern})$"))
        return f"coalesce({side} {comparison}, false)"  # a missing tag is not null but false, so that `not` holds

    match condition:
        case Not(inner):
            return f"not {_condition(inner, parameters)}"
        case All(conditions):
            return f"({' and '.join(_condition(inner, parameters) for inner in conditions)})"
        case AnyOf(conditions):
            return f"({' or '.join(_condition(inner, parameters) for inner in conditions)})"
        case OneOf(field, values):
            kind = "text" if isinstance(values[0], str) else "float8"
            return compared(field, values[0], f"= any({parameter(list(values))}::{kind}[])")
        case Compare(field, sign, value):
            return compared(field, value, f"{sign} {parameter(value)}")


def _number(column: str, short: str, any_length: str) -> str:
    """Returns the SQL of a text as `number_of` reads it, null for other texts. The patterns are those of short texts and of all.

    The number is a float8, so that the same digits count in all engines. PostgreSQL refuses what rounds to zero, which only a long one can.
    """
    rounded = f"case when abs({column}::numeric) < {LARGEST_ZERO} then 0 else {column}::numeric::float8 end"
    of_short = f"when length({column}) <= {MOST_DIGITS} then case when {column} ~ {short} then {column}::float8 end"
    return f"case {of_short} when {column} ~ {any_length} then {rounded} end"


def binary_vector(vector: Vector, number_type: str) -> bytes:
    """Returns a vector as pgvector receives it: the number of dimensions and an unused number of two bytes each, then the numbers."""
    return len(vector).to_bytes(2, "big") + b"\0\0" + vector.astype(number_type).tobytes()


def text_vector(numbers: NDArray[np.floating]) -> str:
    """Returns a vector as a statement writes it."""
    return f"[{','.join(map(str, numbers.tolist()))}]"
