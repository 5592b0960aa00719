"""Imports that are deferred until the module is used."""

import subprocess
import sys

SCRIPT = """
import sys
from reelnest.launch.deferred_import import defer_import
defer_import("scipy.stats")
from reelnest.stages import validate
assert "scipy.stats._stats_py" not in sys.modules
defer_import("scipy.stats")
from scipy import stats
assert stats.norm.cdf(0) == 0.5
assert "scipy.stats._stats_py" in sys.modules
"""


def test_validation_does_not_import_the_statistics_that_no_expectation_uses() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
