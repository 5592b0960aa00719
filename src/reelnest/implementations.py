"""Registries of a protocol's implementations by name: one file each in a package, or registered by other code.

In: classes or functions registered with a decorator. Out: the implementation of a name, or a ConfigError with the known names.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from reelnest.errors import ConfigError

Protocol = TypeVar("Protocol")


class Implementations(Generic[Protocol]):
    """The implementations of one protocol. The modules of `package` are imported, and so registered, on the first lookup.

    Example:
        >>> IMPORTERS: Implementations[Importer] = Implementations("importer", "reelnest.records.importers")
        >>> @IMPORTERS.register("msrvtt")
        ... def read(source: Path) -> Iterator[Row]: ...
    """

    def __init__(self, what: str, package: str) -> None:
        """`what` is a singular noun for messages, `package` the package's full name.

        Pass `package` as a string literal: `code_closure.py` reads it, so that changes in an implementation count as changes of code.
        """
        self._what, self._package = what, package
        self._by_name: dict[str, Protocol] = {}
        self._is_complete = False

    def register(self, name: str) -> Callable[[Protocol], Protocol]:
        """Returns a decorator that registers an implementation under `name`. Raises ValueError if the name is taken by another one."""

        def add(implementation: Protocol) -> Protocol:
            if self._by_name.setdefault(name, implementation) is not implementation:
                raise ValueError(f"{self._what} '{name}' is already registered; choose another name")
            return implementation

        return add

    def names(self) -> tuple[str, ...]:
        """Returns all names, in alphabetical order."""
        self._complete()
        return tuple(sorted(self._by_name))

    def __getitem__(self, name: str) -> Protocol:
        """Raises ConfigError with the known names for an unknown one."""
        self._complete()
        try:
            return self._by_name[name]
        except KeyError:
            near = difflib.get_close_matches(name, self.names(), n=1)
            meant = f"did you mean '{near[0]}'? Known" if near else "known"
            raise ConfigError(f"unknown {self._what} '{name}'; {meant}: {', '.join(self.names())}.") from None

    def _complete(self) -> None:
        if not self._is_complete:
            self._is_complete = True
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
                importlib.import_module(module.name)
