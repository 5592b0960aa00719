"""What all sections of `params.yaml` are made of."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from reelnest.settings.table_names import NameIn

Fraction = Annotated[float, Field(ge=0, le=1)]

Positive = Annotated[int, Field(ge=1)]

MetricName = Annotated[str, AfterValidator(NameIn("reelnest.evaluation.metrics", "metric_names", "metric"))]
"""Any row of the table of metrics."""

ComparableMetric = Annotated[str, AfterValidator(NameIn("reelnest.evaluation.metrics", "comparable_names", "metric"))]
"""A row by which two models, or two configurations, can be compared query by query."""

FrameSampling = Annotated[str, AfterValidator(NameIn("reelnest.video.sampling", "sampler_names", "frame sampler"))]
"""How the frames of a video are chosen."""

Storage = Annotated[str, AfterValidator(NameIn("reelnest.search.storage_types", "storage_names", "storage type"))]
"""How an index stores a vector. `binary` are the signs alone; `binary_int8` both, the shortlist ordered by the int8 codes."""

DecoderName = Annotated[str, AfterValidator(NameIn("reelnest.video.decoders", "setting_names", "decoder"))]
"""`auto`, or a decoder of videos alone."""


class Section(BaseModel):
    """A part of `params.yaml`: frozen, strict about types and about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)
