"""The sections `data`, `validate` and `preprocess`: what of the data is used, and as which frames."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from reelnest.settings.section import DecoderName, Fraction, FrameSampling, Positive, Section


class Data(Section):
    """What of the data is used, and how it is divided."""

    text_fields: tuple[Literal["title", "caption", "text", "ocr", "asr"], ...] | None = Field(None, strict=False)
    """Fields of a video that the encoder reads after its frames; null for all that are present."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Shares of the pair graph's connected components, for pairs without a `split` of their own."""

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must stay below 1, or nothing is left to train on")
        return self


class Validate(Section):
    """What counts as a bad record, and how many are too many."""

    max_quarantined_fraction: Fraction = 0.05
    max_text_characters: Positive = 4000
    max_video_megabytes: Positive = 2000
    max_video_frames: Positive = 50_000
    max_video_seconds: Annotated[float, Field(gt=0)] = 3600.0
    decode_timeout_seconds: Annotated[float, Field(gt=0)] = 60.0


class Preprocess(Section):
    """Which frames of a video are kept, and at what size."""

    sampling: FrameSampling = "uniform"
    frames: Annotated[int, Field(ge=2, le=768)] = 4
    """`uniform`: so many, evenly spread over the video. `fps`: at most so many."""
    fps: Annotated[float, Field(gt=0)] = 2.0
    """`fps`: frames a second."""
    decoder: DecoderName = "auto"
    """`auto`: decord where it is known to give the right frames of a file, PyAV elsewhere. Images and animated WebP are Pillow's."""
    min_pixels: Positive = 3136
    max_pixels: Positive = 3200
    """A frame's area, in pixels, after resizing (both sides become multiples of what the model family merges into one token)."""
    shard_megabytes: Positive = 256
    scheduler: str | None = None
    """Address of a Dask scheduler that shares this file system; null for processes of this machine."""

    @model_validator(mode="after")
    def _can_be_sampled(self) -> Self:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) must not be above max_pixels ({self.max_pixels})")
        return self
