"""Which code made a figure: two models are compared where theirs came of the same files.

A commit would be too much, since most commits change no figure; the versions of the libraries are left out, which move a cosine by a
rounding.
"""

from reelnest.code_closure import FIGURES, code_digest
from reelnest.records.content_hash import value_hash


def evaluation_code_hash(depth: int) -> str:
    """SHA-256 over the files that an evaluation runs, but those that draw its page, and the one setting that its figures depend on."""
    return value_hash([depth, code_digest(FIGURES)])
