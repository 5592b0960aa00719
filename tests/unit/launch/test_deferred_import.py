"""Imports that are deferred until the module is used."""

import subprocess
import sys

SCRIPT = """
import sys
from reelnest.launch.deferred_import import deferred_import
with deferred_import("colorsys"):
    import colorsys as deferred
assert "colorsys" not in sys.modules
{use}
import colorsys
assert (deferred is colorsys) is False and deferred.rgb_to_hsv is colorsys.rgb_to_hsv
with deferred_import("colorsys"):
    import colorsys as known
assert known is colorsys
"""


def test_a_deferred_module_is_imported_on_use_and_later_imports_get_it() -> None:
    for use in ("", "assert deferred.rgb_to_hsv(1, 0, 0) == (0.0, 1.0, 1)"):
        subprocess.run([sys.executable, "-c", SCRIPT.format(use=use)], check=True)


def test_validation_does_not_import_the_statistics_and_charts_that_no_expectation_uses() -> None:
    script = """
import gc, sys
from reelnest.launch.deferred_import import deferred_import, permanent_imports
with permanent_imports(), deferred_import("scipy.stats"), deferred_import("altair"):
    from reelnest.stages import validate
assert not {"scipy.stats", "altair"} & set(sys.modules)
assert gc.isenabled() and gc.get_freeze_count() > 100_000
"""
    subprocess.run([sys.executable, "-c", script], check=True)
