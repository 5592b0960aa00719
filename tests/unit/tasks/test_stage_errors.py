"""What is read off the lines of a stage that failed: its status behind DVC's, and its own error message."""

import pytest

from tasks.process.dvc import COMMAND_FAILED, error_message, is_interruption
from tasks.process.runner import describe_status


@pytest.mark.parametrize("status", [75, -9, 137, 1])
def test_dvc_reports_the_status_of_the_command_that_failed(status: int) -> None:
    line = f"ERROR: failed to reproduce 'train': failed to run: reelnest train, exited with {status}"
    found = COMMAND_FAILED.search(line)
    assert found is not None
    assert int(found[1]) == status


@pytest.mark.parametrize("line", ["epoch 3: loss 75", "the worker exited with 1", "ERROR: failed to reproduce 'train': output is missing"])
def test_other_lines_report_no_status(line: str) -> None:
    assert COMMAND_FAILED.search(line) is None


def test_an_error_message_goes_from_its_beginning_to_the_end() -> None:
    lines = ["training: 8 pairs", "reelnest: error: params.yaml: train.epoch: unknown setting", "params.yaml: seed: unknown setting"]
    assert error_message(lines) == "params.yaml: train.epoch: unknown setting\nparams.yaml: seed: unknown setting"
    assert error_message(["Traceback (most recent call last):", "RuntimeError: a bug"]) is None


@pytest.mark.parametrize(
    ("status", "interrupted"), [(75, True), (-9, True), (137, True), (143, True), (0, False), (1, False), (2, False), (255, False)]
)
def test_killed_or_resumable_is_interrupted_and_an_error_is_not(status: int, interrupted: bool) -> None:
    assert is_interruption(status) is interrupted


def test_a_status_is_described_in_words() -> None:
    assert describe_status(137) == "was ended by signal 9"
    assert describe_status(255) == "ended with status 255"
