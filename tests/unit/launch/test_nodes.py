"""What is known of the nodes of a job, and how the job ended."""

import os
import socket
from pathlib import Path

import pytest

from reelnest.errors import ReelnestError
from reelnest.launch.failures import Outcome, beat_file
from reelnest.launch.jobs.nodes import POLL_SECONDS, LostNodes, Nodes, free_port

DONE = Outcome({})
KILLED = Outcome({0: -9})
STOPPED = Outcome({1: -15}, "SIGTERM")
"""A node that was stopped because another one failed, or on request."""


@pytest.mark.parametrize(
    ("nodes", "circumstance", "expected"),
    [
        ([DONE, DONE], "", DONE),
        ([DONE, DONE], "is_stopped", DONE),
        ([KILLED, STOPPED], "", KILLED),
        ([KILLED, STOPPED], "is_interrupted", None),
        ([KILLED, STOPPED], "is_stopped", Outcome({0: -9, 1: -15}, "SIGTERM")),
        ([STOPPED, STOPPED], "", None),
        ([KILLED], "", None),  # the other node is lost
        ([DONE], "", None),
        ([], "is_stopped", Outcome({}, "SIGTERM")),
    ],
)
def test_a_job_ends_as_its_nodes(nodes: list[Outcome], circumstance: str, expected: Outcome | None, tmp_path: Path) -> None:
    for number, outcome in enumerate(nodes):
        outcome.write(tmp_path, number)
    seen = Nodes(tmp_path, 2, lost_seconds=60.0)
    seen.look()
    assert seen.outcome(is_stopped=circumstance == "is_stopped", is_interrupted=circumstance == "is_interrupted") == expected


def test_a_node_without_a_sign_of_life_is_lost_after_the_seconds_of_the_setting(tmp_path: Path) -> None:
    lost = LostNodes(tmp_path, nodes=2, seconds=4 * POLL_SECONDS)
    file = beat_file(tmp_path, 0)
    file.touch()
    seen = []
    for second in range(8):
        os.utime(file, (second + 1, second + 1))
        seen.append(lost(ended=()))
    assert seen == [False] * 4 + [True] * 4  # the other node never started
    assert not lost(ended=(1,))  # a node that has ended shows no life


def test_the_port_is_a_free_one_of_the_range() -> None:
    with socket.socket() as used:
        used.bind(("", 0))
        port = used.getsockname()[1]
        with pytest.raises(ReelnestError, match="`ports` in launch"):
            free_port(port, port)
        assert free_port(port, port + 200) != port
    assert free_port(port, port) == port
