"""The implementations of a protocol, by name: one file each in one package, or registered by other code.

In: classes or functions that a decorator names. Out: the one of a name, or a ConfigError with the names that there are.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from reelnest.errors import ConfigError

Protocol = TypeVar("Protocol")


class Implementations(Generic[Protocol]):
    """What implements one protocol. Each module of `package` registers its own when the first name is looked up.

    Example:
        >>> IMPORTERS: Implementations[Importer] = Implementations("importer", "reelnest.records.importers")
        >>> @IMPORTERS.register("msrvtt")
        ... def read(source: Path) -> Iterator[Row]: ...
    """

    def __init__(self, what: str, package: str) -> None:
        """`what` is the singular noun of messages, `package` the full name of the package.

        Write the name as a literal: `code_closure.py` reads it, so that a change in an implementation counts as a change of code.
        """
        self._what, self._package = what, package
        self._by_name: dict[str, Protocol] = {}
        self._is_complete = False

    def register(self, name: str) -> Callable[[Protocol], Protocol]:
        """A decorator that makes an implementation known under `name`. Raises ValueError for a name that is taken by another one."""

        def add(implementation: Protocol) -> Protocol:
            if self._by_name.setdefault(name, implementation) is not implementation:
                raise ValueError(f"{self._what} '{name}' is registered already; give this one another name")
            return implementation

        return add

    def names(self) -> tuple[str, ...]:
        """All names, in alphabetical order."""
        self._complete()
        return tuple(sorted(self._by_name))

    def __getitem__(self, name: str) -> Protocol:
        """Raises ConfigError, with the names that there are, for any other."""
        self._complete()
        try:
            return self._by_name[name]
        except KeyError:
            raise ConfigError(f"there is no {self._what} '{name}'; known: {', '.join(self.names())}.") from None

    def _complete(self) -> None:
        if not self._is_complete:
            self._is_complete = True
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
                importlib.import_module(module.name)
