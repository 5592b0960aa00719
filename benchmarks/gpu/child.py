"""The process of one check: imports the libraries, waits for its turn, and runs the check."""

import importlib
import os
import platform
import sys
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "accelerate", "peft", "sentence-transformers", "bitsandbytes", "triton", "flash-attn")


def main(function: str, device: str, size: str, results: str, folder: str) -> int:
    """Runs `module:function` after a line on the standard input. Returns the exit status."""
    module, name = function.split(":")
    # The imports take seconds, while the check before this one still has the GPU.
    check = getattr(importlib.import_module(module), name)
    from benchmarks.gpu.reporting import Run, SkippedError, one_line

    if not sys.stdin.readline():
        return 0  # not this one's turn
    run, started = Run(device, size, Path(results), Path(folder)), time.perf_counter()
    outcome: dict[str, Any] = {"status": "done"}
    try:
        if run.on_gpu:
            import torch

            if not torch.cuda.is_available():
                raise RuntimeError("no GPU that torch can use; to try the script without one: --device cpu --size tiny")
            torch.cuda.set_device(run.device)
        check(run)
    except SkippedError as skipped:
        outcome = {"status": "skipped", "reason": str(skipped)}
    except Exception as error:  # noqa: BLE001 - it is reported
        traceback.print_exc()
        lacks_memory = type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error)
        outcome = {"status": "out of memory" if lacks_memory else "error", "reason": one_line(error)}
    run.finish(**outcome, check_seconds=round(time.perf_counter() - started, 2))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # at once: a library's thread or a process group must not keep the GPU


def environment(run: Any) -> None:
    """Reports the card and the versions. Fails if a library is too old, or if there is no GPU to use."""
    import torch

    run.figures(python=platform.python_version(), processor=_processor(), cores=os.cpu_count())
    run.figures(**{name: _version(name) for name in LIBRARIES})
    if not run.on_gpu:
        return
    properties = torch.cuda.get_device_properties(run.device)
    run.figures(
        card=properties.name,
        card_gib=properties.total_memory / (1 << 30),
        capability=".".join(map(str, torch.cuda.get_device_capability(run.device))),
        cuda=torch.version.cuda,
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    information = Path("/proc/cpuinfo")  # Linux only
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
