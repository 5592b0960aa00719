"""Makes imports cheaper: a module that a library imports but rarely uses is deferred, and no garbage is searched for.

`importlib.util.LazyLoader` does not: it imports the module as soon as an import statement looks at its `__spec__`.
"""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class _Deferred(ModuleType):
    """Stands for a module, which is imported when an attribute of it is used."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def deferred_import(name: str) -> Iterator[None]:
    """Defers imports of the module `name` inside the block until it is used. Imports after the block get the module itself."""
    if name in sys.modules:
        yield
        return
    module = sys.modules[name] = _Deferred(name)
    try:
        yield
    finally:
        if sys.modules.get(name) is module:
            del sys.modules[name]


@contextmanager
def permanent_imports() -> Iterator[None]:
    """Imports inside the block are not searched for garbage, then or later: modules stay, and a thousand of them take a while to search."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
