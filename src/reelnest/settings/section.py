"""What all sections of `params.yaml` are made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]

Positive = Annotated[int, Field(ge=1)]

Metric = Literal["recall@1", "recall@5", "recall@10", "mrr", "ndcg@10", "map"]

ValidationMetric = Metric | Literal["median_rank"]

Storage = Literal["float32", "float16", "int8", "binary", "binary_int8"]
"""How an index keeps a vector. `binary` are the signs alone; `binary_int8` both, the shortlist ordered by the int8 codes."""


class Section(BaseModel):
    """A part of `params.yaml`: frozen, strict about types and about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)
