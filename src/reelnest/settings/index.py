"""The section `index`: what `reelnest index` writes."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from reelnest.settings.section import Section


class Index(Section):
    """The moments of an index. No DVC stage depends on it."""

    window_seconds: Annotated[float, Field(ge=1)] | None = None
    """Videos that are longer are cut into windows of this length, which are searched one by one; null: a video is searched as a whole."""
    window_overlap_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Time that a window shares with the next one."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.window_seconds is not None and self.window_overlap_seconds > self.window_seconds / 2:
            raise ValueError(
                f"window_overlap_seconds: {self.window_overlap_seconds:g} is more than half of window_seconds, {self.window_seconds:g}"
            )
        return self
