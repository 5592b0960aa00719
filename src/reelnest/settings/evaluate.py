"""The section `evaluate`: retrieval on the test split."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from reelnest.settings.section import ComparableMetric, Positive, Section, Storage


class Funnel(Section):
    """A search by the first of `dims` whose best answers are ordered anew by the next one, and so on."""

    dims: Annotated[tuple[Positive, ...], Field(min_length=2, strict=False)]
    shortlists: Annotated[tuple[Positive, ...], Field(strict=False)]
    """How many answers go from each dim to the next."""

    @model_validator(mode="after")
    def _narrows(self) -> Self:
        if any(a >= b for a, b in zip(self.dims, self.dims[1:], strict=False)):
            raise ValueError(f"dims must rise, each above the one before; found {list(self.dims)}")
        if len(self.shortlists) != len(self.dims) - 1:
            raise ValueError(f"{len(self.dims)} dims need {len(self.dims) - 1} shortlists; found {list(self.shortlists)}")
        if any(a < b for a, b in zip(self.shortlists, self.shortlists[1:], strict=False)):
            raise ValueError(f"shortlists must not grow; found {list(self.shortlists)}")
        return self


class Evaluate(Section):
    """Retrieval evaluation on the test split."""

    batch_size: Positive = 64
    """Items embedded at once by each process."""
    depth: Annotated[int, Field(ge=10)] = 1000
    """Answers kept for each query; MAP is taken over these, as in TREC."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the interval around each figure, by resampling the queries, and of the choice."""
    extra_dims: Annotated[tuple[Positive, ...], Field(strict=False)] = ()
    """Prefixes that the model was not trained for, to be evaluated beside its own; below the largest of these."""
    storage: Annotated[tuple[Storage, ...], Field(min_length=1, strict=False)] = ("float32", "int8", "binary")
    """Each is evaluated at each dim."""
    shortlist: Positive = 100
    """Answers that binary search, and the funnel of `funnels: null`, order anew."""
    funnels: Annotated[tuple[Funnel, ...], Field(strict=False)] | None = None
    """Each is evaluated with each storage type but the binary ones. null: one, from the smallest dim to the largest; [] for none."""
    index_videos: Positive = 1_000_000
    """Videos that the index sizes in the report are for."""
    slice_fields: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Tags of videos, or text fields that the encoder reads, by whose values the report divides the queries."""
    choice_metric: ComparableMetric = "recall@10"
    """Chooses the smallest of these configurations that is as good as the best one, over all queries;"""
    choice_margin: Annotated[float, Field(gt=0)] = 0.01
    """in the metric's unit: by less than this, worse is as good."""
    gallery_queries: Annotated[int, Field(ge=0)] = 20
    """Queries that the page shows with their best answers; 0 for a page without pictures."""
