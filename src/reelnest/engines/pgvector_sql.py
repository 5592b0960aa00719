"""The statements that search a table of vectors with pgvector, and the forms in which it reads a vector."""

import numpy as np
from numpy.typing import NDArray

from reelnest.engines.engine import Vector


def prefix(kind: str, dim: int) -> str:
    """SQL of the first `dim` numbers of a row's vector."""
    return f"subvector(vector, 1, {dim:d})::{kind}({dim:d})"


def distance(kind: str, dim: int) -> str:
    """SQL of the cosine distance to a query's prefix."""
    return f"{prefix(kind, dim)} <=> %(prefix)s::{kind}({dim:d})"


def exact_search(table: str, kind: str, dim: int, k: int) -> str:
    """The best `k` rows at `dim` with their cosines; ties in the order of the rows."""
    measure = distance(kind, dim)
    return f"select video_id, 1 - ({measure}) from {table} order by {measure}, number limit {k:d}"


def funnel_search(table: str, kind: str, dims: tuple[int, int], sizes: tuple[int, int], *, by_graph: bool) -> str:
    """A shortlist of sizes[0] rows at dims[0], of which the best sizes[1] at dims[1] are selected."""
    nearest_first = distance(kind, dims[0])
    if not by_graph:
        nearest_first += ", number"  # ties in the order of the rows; the graph is only searched for an order by distance alone
    shortlist = f"select number, video_id, vector from {table} order by {nearest_first} limit {sizes[0]:d}"
    measure = f"vector <=> %(full)s::{kind}({dims[1]:d})"
    return f"select video_id, 1 - ({measure}) from ({shortlist}) shortlist order by {measure}, number limit {sizes[1]:d}"


def binary_vector(vector: Vector, number_type: str) -> bytes:
    """A vector as pgvector receives it: the number of dimensions and an unused number of two bytes each, then the numbers."""
    return len(vector).to_bytes(2, "big") + b"\0\0" + vector.astype(number_type).tobytes()


def text_vector(numbers: NDArray[np.floating]) -> str:
    """A vector as a statement writes it."""
    return f"[{','.join(map(str, numbers.tolist()))}]"
