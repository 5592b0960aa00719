"""The sections `data`, `validate` and `preprocess`: which records and which frames are used."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from reelnest.settings.section import DecoderName, Fraction, FrameSampling, Positive, Section, Text

GreyLevel = Annotated[float, Field(ge=0, le=255)]


class Data(Section):
    """Which text fields are used, and how the data is split."""

    text_fields: tuple[Literal["title", "caption", "text", "ocr", "asr"], ...] | None = Field(None, strict=False)
    """Text fields of a video that the encoder reads after its frames; null for all."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Shares of the pair graph's connected components, for pairs without a `split`."""

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must be below 1, or no pairs remain to train on")
        return self


class Validate(Section):
    """Limits for records, and the maximum share of bad records."""

    max_quarantined_fraction: Fraction = 0.05
    max_text_characters: Positive = 4000
    max_video_megabytes: Positive = 2000
    max_video_frames: Positive = 50_000
    max_video_seconds: Annotated[float, Field(gt=0)] = 3600.0
    decode_timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    min_brightness: GreyLevel = 24
    """Of the lightest part of a video, 0 to 255. Darker videos are a warning, as for the next two."""
    min_contrast: GreyLevel = 8
    """Between the lightest and the darkest part of a frame."""
    min_change: GreyLevel = 3
    """Of the part that changes most between two frames."""
    max_near_duplicate_bits: Annotated[int, Field(ge=0, le=11)] = 6
    """Two videos look almost the same if their perceptual hashes, of 192 bits, differ in at most this many."""
    min_near_duplicate_similarity: Annotated[float, Field(ge=0.5, le=1)] = 0.8
    """Two texts are almost the same if at least this share of their trigrams is in both (Jaccard similarity)."""
    max_script_difference: Fraction = 0.1
    """Between the shares of the texts by script in the train and the test split: at most this share has another script."""


class Preprocess(Section):
    """Which frames of a video are sampled, and their size."""

    sampling: FrameSampling = "uniform"
    frames: Annotated[int, Field(ge=2, le=768)] = 4
    """`uniform`: the number of frames, evenly spread over the video. `fps`: the maximum number."""
    fps: Annotated[float, Field(gt=0)] = 2.0
    """`fps`: frames per second."""
    decoder: DecoderName = "auto"
    """`auto`: decord for files that it is known to read correctly, PyAV for others. Pillow always reads images and animated WebP."""
    min_pixels: Positive = 3136
    max_pixels: Positive = 3200
    """Limits of a frame's area in pixels after resizing. Both sides become multiples of a token's side."""
    shard_megabytes: Positive = 256
    scheduler: Text | None = None
    """Address of a Dask scheduler that shares this file system; null for processes on this machine."""

    @model_validator(mode="after")
    def _can_be_sampled(self) -> Self:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) must not be above max_pixels ({self.max_pixels})")
        return self
