"""A check's process, seen from the process that runs all checks."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import Check

LAST_LINES = 4
"""Lines of a dead process's output that its record quotes."""


class Started:
    """A process that imports its libraries at once and then waits for the order to run its check."""

    def __init__(self, check: Check, device: str, size: str, folder: Path, root: Path) -> None:
        self._check = check
        name = check.name.replace(":", ".")
        self._results, self._log = folder / f"{name}.jsonl", folder / f"{name}.log"
        command = [sys.executable, "-m", "benchmarks.gpu", "--child", check.function, device, size, str(self._results), str(folder)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(root / "src"), str(root), os.environ.get("PYTHONPATH")])),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=root, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def finish(self, limit_s: float) -> dict[str, Any]:
        """Lets the check run, for at most `limit_s` seconds, and returns its record."""
        begun = time.monotonic()
        timed_out = False
        try:
            self._process.communicate(b"go\n", timeout=limit_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            self.kill()
        except BrokenPipeError:
            self._process.wait()
        return self._record(time.monotonic() - begun, f"killed after {limit_s:.0f} s" if timed_out else None)

    def skip(self, reason: str) -> dict[str, Any]:
        """Ends the process without its check."""
        self.kill()
        return {"name": self._check.name, "what": self._check.what, "status": "skipped", "reason": reason, "figures": {}, "seconds": 0.0}

    def kill(self) -> None:
        """Ends the process and those that it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def _record(self, seconds: float, timed_out: str | None) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        failures: list[str] = []
        outcome: dict[str, Any] = {}
        for line in self._results.read_text(encoding="utf-8").splitlines() if self._results.is_file() else []:
            written = json.loads(line)
            figures |= written.pop("figures", {})
            failures += [written["failure"]] if "failure" in written else []
            outcome |= {name: written[name] for name in ("status", "reason") if name in written}
        if timed_out:
            outcome = {"status": "timed out", "reason": timed_out}
        elif not outcome:
            outcome = {"status": "crashed", "reason": f"{_end(self._process.returncode)}; {self._last_lines()}"}
        elif outcome["status"] == "done":
            outcome["status"] = "failed" if failures else "passed"
        if failures:
            outcome["failures"] = failures
        return {"name": self._check.name, "what": self._check.what, **outcome, "figures": figures, "seconds": round(seconds, 1)}

    def _last_lines(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " | ".join(line.strip()[:200] for line in lines[-LAST_LINES:])


def _end(status: int | None) -> str:
    if status is not None and status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"exit status {status}"
