"""What a decoder process may take of the machine, set by itself before it reads anything of others."""

import contextlib
import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
LARGEST_FILE = 1 << 20
"""Bytes. It writes nothing but what a library prints."""
OPEN_FILES = 64
SPARE_SECONDS = 10.0
"""Processor time beyond the wall clock's limit, at which the parent ends it anyway."""


def confine(parent: int, memory_bytes: int) -> None:
    """Ends this process with its parent, and bounds its memory, the files that it writes and the descriptors that it holds."""
    if sys.platform == "linux":
        # The kernel's help for the case that somebody else (a forked child of the parent) keeps our stdin open.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    _lower(resource.RLIMIT_AS, memory_bytes)
    _lower(resource.RLIMIT_FSIZE, LARGEST_FILE)
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    _lower(resource.RLIMIT_CORE, 0)


def allow_processor_seconds(seconds: float) -> None:
    """Ends this process when it has run for so long from now on, should nobody else do so."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    until = int(used.ru_utime + used.ru_stime + seconds + SPARE_SECONDS) + 1
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_CPU, (until, most))


def _lower(kind: int, value: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(kind, (value, value))
