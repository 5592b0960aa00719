"""Settings whose value is a name from another package's table, such as the metrics.

The settings cannot import the packages above them. So a setting names its table's module, which is imported when a value is checked. A
new row of a table is at once an allowed value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class NameIn:
    """A validator: the value must be one of the names that `function` of `module` returns."""

    module: str
    function: str
    what: str
    """Noun for a row of the table, for error messages, such as `metric`."""

    def __call__(self, value: str) -> str:
        """Returns the value. Raises ValueError for an unknown name."""
        names: Sequence[str] = getattr(import_module(self.module), self.function)()
        if value not in names:
            raise ValueError(f"unknown {self.what} '{value}'; known: {', '.join(names)}")
        return value
