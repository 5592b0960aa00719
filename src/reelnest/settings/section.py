"""The base class and field types of all sections of `params.yaml`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from reelnest.settings.table_names import NameIn

Fraction = Annotated[float, Field(ge=0, le=1)]

Positive = Annotated[int, Field(ge=1)]

Text = Annotated[str, Field(min_length=1)]
"""A name or an address, which cannot be empty."""

Precision = Literal["no", "bf16", "fp16"]
"""The dtype of matrix products: that of the weights, bfloat16 or float16."""

MetricName = Annotated[str, AfterValidator(NameIn("reelnest.evaluation.metrics", "metric_names", "metric"))]
"""The name of any metric."""

ComparableMetric = Annotated[str, AfterValidator(NameIn("reelnest.evaluation.metrics", "comparable_names", "metric"))]
"""The name of a metric that can compare two models, or two configurations, query by query."""

FrameSampling = Annotated[str, AfterValidator(NameIn("reelnest.video.sampling", "sampler_names", "frame sampler"))]
"""The name of a frame sampler."""

Storage = Annotated[str, AfterValidator(NameIn("reelnest.search.storage_types", "storage_names", "storage type"))]
"""How an index stores vectors. `binary`: signs only; `binary_int8`: both, and the int8 codes rerank the shortlist."""

DecoderName = Annotated[str, AfterValidator(NameIn("reelnest.video.decoders", "setting_names", "decoder"))]
"""`auto`, or the name of a video decoder."""

FamilyName = Annotated[str, AfterValidator(NameIn("reelnest.backbones.registry", "family_names", "model family"))]
"""The name of a model family's file in `backbones/families/`."""


class Section(BaseModel):
    """A section of `params.yaml`: frozen, with strict types, finite numbers and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True, allow_inf_nan=False)
