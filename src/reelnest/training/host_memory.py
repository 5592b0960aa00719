"""Memory of a training on CPUs: what a step frees is kept for the next one."""

import ctypes
import platform

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MOST = 2**31 - 1
"""Bytes; the largest number that mallopt takes."""


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to give no freed memory back to the system; whether it does so (not every system's is glibc's).

    By default it gives back what a step's activations took, and the next step gets the same pages anew, each of them filled with zeros by
    the kernel first: 5 % of a step's time here. The process's peak memory stays what it was; what comes after the peak stays as large.
    See mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(ctypes.c_int(option), ctypes.c_int(MOST)) for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))
