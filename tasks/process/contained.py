"""Runs a command as the first process of a container, and gives the command's stages their grace period before the container ends.

Usage, in a container's command: `python -m tasks.process.contained prefect worker start ...`

A container ends with its first process, and the kernel then kills all others. Prefect's worker waits only 30 s for a run that it stops,
even if a stage needs longer to save. So this process passes SIGTERM on to the command, and after the command has ended it gives the
remaining processes `launch.grace_seconds` to end.
"""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.process.grace import grace_seconds
from tasks.process.guard import MARKS, end_marked

CHECKOUT = Path(__file__).parents[2]


def main(command: Sequence[str]) -> int:
    """Returns the command's exit status, 128 + n after signal n."""
    mark = secrets.token_hex(16)
    marks = ":".join(filter(None, [os.environ.get(MARKS), mark]))
    child = subprocess.Popen(command, env={**os.environ, MARKS: marks})
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: child.send_signal(received))
    status = child.wait()
    end_marked(mark, grace_seconds(CHECKOUT))
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
