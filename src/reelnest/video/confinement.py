"""Resource limits that a decoder process sets for itself before it reads untrusted files."""

import contextlib
import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
LARGEST_FILE = 1 << 20
"""Bytes. The process writes only what libraries print."""
OPEN_FILES = 64
SPARE_SECONDS = 10.0
"""Processor time beyond the wall-clock limit, at which the parent kills the process."""


def confine(parent: int, memory_bytes: int) -> None:
    """Makes this process end with its parent, and limits its memory, the size of files it writes and its open descriptors."""
    if sys.platform == "linux":
        # A forked child of the parent may hold our stdin open, so end of input is not enough to detect that the parent has exited.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    _lower(resource.RLIMIT_AS, memory_bytes)
    _lower(resource.RLIMIT_FSIZE, LARGEST_FILE)
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    _lower(resource.RLIMIT_CORE, 0)


def allow_processor_seconds(seconds: float) -> None:
    """Limits the processor time of this process from now on, in case its parent does not end it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    until = int(used.ru_utime + used.ru_stime + seconds + SPARE_SECONDS) + 1
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_CPU, (until, most))


def _lower(kind: int, value: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(kind, (value, value))
