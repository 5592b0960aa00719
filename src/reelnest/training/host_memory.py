"""Reuses freed memory between the steps of a training on CPUs."""

import ctypes
import platform

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MOST = 2**31 - 1
"""Bytes; the largest value of mallopt."""


def keep_freed_memory() -> bool:
    """Stops glibc's malloc from returning freed memory to the system. Returns whether that worked; False without glibc.

    By default malloc returns the memory of a step's activations, and in the next step the kernel provides zeroed pages again, which takes
    5 % of a step's time. The peak memory does not change, but the process keeps it after the peak. See mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(ctypes.c_int(option), ctypes.c_int(MOST)) for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))
