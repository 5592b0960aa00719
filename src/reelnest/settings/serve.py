"""The section `serve`: what `reelnest serve` logs."""

from typing import Annotated

from pydantic import Field

from reelnest.settings.section import Section, Text

Minutes = Annotated[float, Field(ge=1 / 60, le=24 * 60)]


class Serve(Section):
    """The click log of the search server. No DVC stage depends on it."""

    click_log: Text | None = None
    """The folder for the log of searches and clicks, such as `work/clicks`; null: nothing is logged. Several servers may share it."""
    click_log_minutes: Minutes = 10.0
    """The searches of this time go into one file."""
    click_minutes: Minutes = 30.0
    """A click counts if it comes within this time of its search. Then the file is complete."""
    click_log_days: Annotated[float, Field(gt=0)] = 30.0
    """The deployment that imports the log uses the files of this many days."""
