"""Settings whose value is the name of a row in a table that another package holds, such as the metrics.

The tables are in packages above the settings, which cannot import them. So a setting names its table's module, and the module is imported
when a value is checked: a row that somebody adds is at once a value that `params.yaml` may hold, and no list is kept here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class NameIn:
    """A validator: the value has to be one of the names that a function of a module returns."""

    module: str
    function: str
    what: str
    """What the table holds, for the error's text: `metric`."""

    def __call__(self, value: str) -> str:
        """Returns the value. Raises ValueError where no row has that name."""
        names: Sequence[str] = getattr(import_module(self.module), self.function)()
        if value not in names:
            raise ValueError(f"there is no {self.what} '{value}' to choose here; known here: {', '.join(names)}")
        return value
