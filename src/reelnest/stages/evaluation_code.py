"""The hash of the evaluation code. Two models are compared only if their metrics were computed by the same code.

It is not the commit, because most commits do not change metrics. Library versions are left out, because they change a cosine only by
rounding.
"""

from reelnest.code_closure import FIGURES, code_digest
from reelnest.records.content_hash import value_hash


def evaluation_code_hash(depth: int) -> str:
    """Returns the SHA-256 over the source files of an evaluation, but not of its page, and over `depth`, which changes metrics."""
    return value_hash([depth, code_digest(FIGURES)])
