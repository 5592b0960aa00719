"""Training on a CPU reuses freed memory without the kernel."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
import sys

import numpy as np
from reelnest.training.host_memory import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()


def step():
    return [np.ones(5_000_000) for _ in range(5)]


step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_a_second_step_finds_the_memory_of_the_first() -> None:
    fresh, reused = (
        int(subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("given back", "kept")
    )

    assert reused < fresh / 10
