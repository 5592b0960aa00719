"""What a decoder process forbids itself before it reads untrusted files: resources by rlimits, other files by Landlock, sockets by seccomp.

Landlock (Linux 5.13) denies every access to a file by name, except reading Python's libraries, which import parts of themselves late. Open
files can be read: the parent opens the video and passes its descriptor. seccomp denies new sockets, and io_uring, which could create one.
Both need no privileges, and hold for the process and its later threads until it ends.
"""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys
import sysconfig

LARGEST_FILE = 1 << 20
"""Bytes. The process writes only what libraries print."""
OPEN_FILES = 64
SPARE_SECONDS = 10.0
"""Processor time beyond the wall-clock limit, at which the parent kills the process."""

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 38, 22  # linux/prctl.h

# linux/landlock.h. The numbers of its system calls are the same on every architecture.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_CREATE_RULESET_VERSION, LANDLOCK_RULE_PATH_BENEATH = 1, 1
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Version of Landlock → how many rights on files it knows; each is one bit."""
NETWORK_VERSION, SCOPE_VERSION = 4, 6
ALL_TCP, ALL_SCOPES = 0b11, 0b11
"""To bind and connect; to abstract UNIX sockets and signals of processes outside."""

# linux/seccomp.h, linux/filter.h and linux/audit.h
SECCOMP_MODE_FILTER = 2
ALLOW, DENY = 0x7FFF0000, 0x00050000 | 13  # SECCOMP_RET_ERRNO with EACCES
LOAD, IF_EQUAL, IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
SYSTEM_CALLS = {"x86_64": (0xC000003E, 41, 425), "aarch64": (0xC00000B7, 198, 425)}
"""Machine → its audit number, and the numbers of `socket` and `io_uring_setup`."""
X32 = 0x40000000
"""System calls from here on are those of another calling convention of x86-64."""


def limit_resources(parent: int, memory_bytes: int) -> None:
    """Makes this process end with its parent, and limits its memory, the size of files it writes and its open descriptors."""
    if sys.platform == "linux":
        # A forked child of the parent may hold our socket open, so end of input is not enough to detect that the parent has exited.
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


def isolate() -> list[str]:
    """Forbids this process to open sockets, and files other than Python's libraries. Returns what the system cannot forbid, in words.

    Call it after the imports, and before other threads start: they would stay free.
    """
    missing = []
    if not _forbid_files():
        missing.append("opening other files (it lacks Landlock)")
    if not _forbid_sockets():
        missing.append("using the network (it lacks seccomp)")
    return missing


def _forbid_files() -> bool:
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    version = library.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1 or library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    rights = (1 << max(count for since, count in FILE_RIGHTS.items() if since <= version)) - 1
    # struct landlock_ruleset_attr: rights on files, on the network, scopes. All are denied but those of the rules below. A kernel accepts
    # fields that it does not know if they are zero.
    network = ALL_TCP if version >= NETWORK_VERSION else 0
    ruleset_attributes = struct.pack("=QQQ", rights, network, ALL_SCOPES if version >= SCOPE_VERSION else 0)
    ruleset = library.syscall(LANDLOCK_CREATE_RULESET, ruleset_attributes, ctypes.c_size_t(len(ruleset_attributes)), 0)
    if ruleset < 0:
        return False
    for folder in {sysconfig.get_path(name) for name in LIBRARIES}:
        opened = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", READ_FILE | READ_FOLDER, opened)  # struct landlock_path_beneath_attr
        library.syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)
        os.close(opened)
    is_restricted: bool = library.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return is_restricted


def _forbid_sockets() -> bool:
    if sys.platform != "linux" or platform.machine() not in SYSTEM_CALLS:
        return False
    architecture, socket, io_uring_setup = SYSTEM_CALLS[platform.machine()]
    # struct seccomp_data begins with the number of the system call and the architecture, 4 bytes each. A jump skips as many instructions.
    instructions = (
        (LOAD, 0, 0, 4),
        (IF_EQUAL, 0, 4, architecture),
        (LOAD, 0, 0, 0),
        (IF_AT_LEAST, 2, 0, X32),
        (IF_EQUAL, 1, 0, socket),
        (IF_EQUAL, 0, 1, io_uring_setup),
        (RETURN, 0, 0, DENY),
        (RETURN, 0, 0, ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions))
    program = struct.pack("@HP", len(instructions), ctypes.addressof(code))  # struct sock_fprog
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return bool(library.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) == 0)


def _lower(kind: int, value: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(kind, (value, value))
