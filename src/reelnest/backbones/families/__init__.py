"""One file for each model family. Each has a `FAMILY` that satisfies `backbones.family.Family`, and is found by being here."""

import pkgutil
from functools import cache
from importlib import import_module

from reelnest.backbones.family import Family


@cache
def own_families() -> tuple[Family, ...]:
    """The families of this folder, by file name."""
    return tuple(import_module(f"{__name__}.{found.name}").FAMILY for found in pkgutil.iter_modules(__path__))
