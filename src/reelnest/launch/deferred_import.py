"""Defers the import of a module that a library imports but rarely uses."""

import importlib.util
import sys


def defer_import(name: str) -> None:
    """Makes imports of the module `name` wait until something of it is used. Does nothing if it is imported already.

    The standard library's recipe: https://docs.python.org/3/library/importlib.html#implementing-lazy-imports.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
