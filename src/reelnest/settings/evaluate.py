"""The section `evaluate`: retrieval on the test split."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from reelnest.settings.section import ComparableMetric, Positive, Precision, Section, Storage


class Funnel(Section):
    """A search with the first of `dims`, whose best results are reranked with the next, and so on."""

    dims: Annotated[tuple[Positive, ...], Field(min_length=2, strict=False)]
    shortlists: Annotated[tuple[Positive, ...], Field(strict=False)]
    """Number of results that each dim passes to the next."""

    @model_validator(mode="after")
    def _narrows(self) -> Self:
        if any(a >= b for a, b in zip(self.dims, self.dims[1:], strict=False)):
            raise ValueError(f"dims must increase; found {list(self.dims)}")
        if len(self.shortlists) != len(self.dims) - 1:
            raise ValueError(f"{len(self.dims)} dims need {len(self.dims) - 1} shortlists; found {list(self.shortlists)}")
        if any(a < b for a, b in zip(self.shortlists, self.shortlists[1:], strict=False)):
            raise ValueError(f"shortlists must not increase; found {list(self.shortlists)}")
        return self


class Evaluate(Section):
    """Retrieval evaluation on the test split."""

    batch_size: Positive = 64
    """Items per embedding batch in each process."""
    precision: Precision | None = None
    """Precision of matrix products in evaluations, indexes and searches; null: that of the training."""
    depth: Annotated[int, Field(ge=10)] = 1000
    """Results per query; MAP is computed over these, as in TREC."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Level of the confidence intervals, from resampled queries, and of the choice."""
    extra_dims: Annotated[tuple[Positive, ...], Field(strict=False)] = ()
    """Dims to evaluate for which the model was not trained; below its largest dim."""
    storage: Annotated[tuple[Storage, ...], Field(min_length=1, strict=False)] = ("float32", "int8", "binary")
    """Storage types, each evaluated at each dim."""
    shortlist: Positive = 100
    """Number of results that binary search, and the funnel of `funnels: null`, rerank."""
    funnels: Annotated[tuple[Funnel, ...], Field(strict=False)] | None = None
    """Each is evaluated with each non-binary storage type. null: one funnel, from the smallest dim to the largest; [] for none."""
    index_videos: Positive = 1_000_000
    """Number of videos for which the report computes index sizes."""
    slice_fields: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Tags of videos, or text fields that the encoder reads. The report divides the queries by their values."""
    choice_metric: ComparableMetric = "recall@10"
    """The metric, over all queries, by which the report recommends the smallest configuration that is as good as the best one."""
    choice_margin: Annotated[float, Field(gt=0)] = 0.01
    """In the metric's unit: a configuration that is worse by less than this is as good."""
    engines: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Search engines in which the recommended configuration is measured beside our folder: `qdrant-edge`, `milvus-lite`, `folder`, or the
    address of a server such as `postgresql://me@db.example/search`, without a password."""
    gallery_queries: Annotated[int, Field(ge=0)] = 20
    """Number of queries that the page shows with their top results; 0 for a page without images."""
