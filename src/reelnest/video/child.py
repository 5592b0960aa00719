"""The parent's side of a decoder process: starts it, sends requests and open files, ends it.

The two exchange JSON lines and raw bytes, never pickle: a process that reads untrusted files may only send data, which is checked here.
The process cannot open files. It asks for those of its request by number, and gets their descriptors.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from reelnest.errors import VideoError
from reelnest.video.input_files import open_file

LONGEST_HEADER = 1 << 20


class DecoderChild:
    """A running decoder process, the socket of its requests, and its two output pipes."""

    def __init__(self, memory_bytes: int) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._requests, its_end = socket.socketpair()  # files can be sent through a UNIX socket
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reelnest.video.decoder_process", str(os.getpid()), str(memory_bytes)],
            # Unused thread pools would take up its address space.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=its_end.fileno(),
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            cwd=Path(__file__).parents[2],  # so that `reelnest` can be imported even if it is not installed but came with a served model
            process_group=0,  # so that Ctrl-C reaches the parent alone, which then ends its children in order
        )
        its_end.close()
        assert self.process.stdout is not None  # noqa: S101 - for the type checker
        self._from = self.process.stdout.fileno()
        self._requests.setblocking(False)
        os.set_blocking(self._from, False)
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def ends_with(self, owner: object) -> None:
        """Ends the process when `owner` is garbage-collected."""
        self._finalizer = weakref.finalize(owner, _end, self.process, self._requests, self._errors)

    def kill(self) -> None:
        """Kills the process without waiting for it to exit."""
        _kill(self.process)

    def end(self) -> None:
        """Ends the process and closes its pipes."""
        if self._finalizer is not None:
            self._finalizer()

    def wait_until_ready(self, deadline: float) -> dict[str, Any]:
        """Returns the child's first message. Raises as `exchange` does."""
        return self._reply(deadline)[0]

    def exchange(self, request: dict[str, Any], files: Sequence[Path], deadline: float) -> tuple[dict[str, Any], np.ndarray]:
        """Sends a request with the first file, then the files that the child asks for. Returns the reply's header and bytes.

        Raises VideoError if the first file cannot be opened, TimeoutError, and EOFError where the child ended or its reply is invalid.
        """
        self._send_file(request, files[0], deadline)
        while True:
            header, payload = self._reply(deadline)
            if "open" not in header:
                return header, payload
            number = header["open"]
            if not isinstance(number, int) or not 0 <= number < len(files):
                raise EOFError(f"invalid reply: it asks for file {number!r} of {len(files)}")
            try:
                self._send_file({}, files[number], deadline)
            except VideoError as error:
                self._send({"reason": error.reason, "text": str(error)}, deadline)

    def _send_file(self, message: dict[str, Any], file: Path, deadline: float) -> None:
        descriptor = open_file(file)
        try:
            self._send(message, deadline, descriptor)
        finally:
            os.close(descriptor)

    def _send(self, message: dict[str, Any], deadline: float, *descriptors: int) -> None:
        line = json.dumps(message).encode("ascii") + b"\n"
        while line:
            _wait(self._requests.fileno(), select.POLLOUT, deadline)
            try:
                line = line[socket.send_fds(self._requests, [line], descriptors) :]
            except (BrokenPipeError, ConnectionResetError):
                raise EOFError(self._exit_reason()) from None
            descriptors = ()

    def _reply(self, deadline: float) -> tuple[dict[str, Any], np.ndarray]:
        received = bytearray()
        while b"\n" not in received:
            received += self._read(1 << 16, deadline)
            if len(received) > LONGEST_HEADER and b"\n" not in received[:LONGEST_HEADER]:
                raise EOFError("invalid reply: its header is too long")
        head, _, start = received.partition(b"\n")
        try:
            header = json.loads(head)
            payload = np.empty(int(header.get("bytes", 0)), dtype=np.uint8)
        except (ValueError, AttributeError, TypeError, MemoryError) as error:
            raise EOFError(f"invalid reply: {error}") from None
        payload[: len(start)] = np.frombuffer(start, dtype=np.uint8)
        filled = len(start)
        view = payload.data
        while filled < len(payload):
            _wait(self._from, select.POLLIN, deadline)
            count = os.readv(self._from, [view[filled:]])
            if not count:
                raise EOFError(self._exit_reason())
            filled += count
        return header, payload

    def _read(self, most: int, deadline: float) -> bytes:
        _wait(self._from, select.POLLIN, deadline)
        received = os.read(self._from, most)
        if not received:
            raise EOFError(self._exit_reason())
        return received

    def _exit_reason(self) -> str:
        """Returns the exit status and the last line of stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        code = self.process.returncode
        status = "it closed its output" if code is None else f"signal {-code}" if code < 0 else f"exit status {code}"
        try:
            size = self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, size - 2000))
            lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        except ValueError:  # another thread has closed the file
            lines = []
        return f"{status}: {lines[-1].strip()}" if lines else status


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError("no reply in time")


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        # Kills the whole process group, which Popen created with the child.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], requests: socket.socket, errors: IO[bytes]) -> None:
    _kill(process)
    # A process that is blocked in the kernel (a dead network disk) cannot be killed. Do not wait for it.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    for pipe in (requests, process.stdout, errors):
        if pipe is not None:
            pipe.close()
