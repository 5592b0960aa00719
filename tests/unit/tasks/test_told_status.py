"""Reading the cause of a failure off the lines of the programs in between."""

import pytest

from tasks.process.dvc import is_interruption, told_status
from tasks.process.runner import describe_status


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("ERROR: failed to reproduce 'train': failed to run: reelnest train, exited with 75", 75),
        ("ERROR: failed to reproduce 'train': failed to run: reelnest train, exited with -9", -9),
        ("E1122 23:00:00.1 99 torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: -9) local_rank: 1 (pid: 7)", -9),
        ("  exitcode  : 1 (pid: 4711)", 1),
        ("subprocess.CalledProcessError: Command '['python', 'x.py']' returned non-zero exit status 75.", 75),
        ("subprocess.CalledProcessError: Command '['python', 'x.py']' died with <Signals.SIGKILL: 9>.", -9),
        ("epoch 3: loss 75", None),
    ],
)
def test_each_program_tells_the_status_in_its_own_way(line: str, status: int | None) -> None:
    assert told_status(line) == status


@pytest.mark.parametrize(
    ("status", "interrupted"), [(75, True), (-9, True), (137, True), (143, True), (0, False), (1, False), (2, False), (255, False)]
)
def test_killed_or_resumable_is_interrupted_and_an_error_is_not(status: int, interrupted: bool) -> None:
    assert is_interruption(status) is interrupted


def test_a_status_is_told_in_words() -> None:
    assert describe_status(137) == "was ended by signal 9"
    assert describe_status(255) == "ended with status 255"
