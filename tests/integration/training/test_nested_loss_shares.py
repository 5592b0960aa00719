"""The loss in two processes with half of the vectors each, compared with one process."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tests.integration.training.nested_loss_share import CASES, figures
from tests.integration.training.training_workspace import ROOT

Shares = tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]]


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Shares:
    folder = tmp_path_factory.mktemp("shares")
    command = [sys.executable, "-m", "tests.integration.training.nested_loss_share"]
    started = [subprocess.Popen([*command, str(rank), str(folder)], cwd=ROOT) for rank in range(2)]
    try:
        assert [process.wait(timeout=120) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return torch.load(folder / "0.pt", weights_only=True), torch.load(folder / "1.pt", weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_two_shares_make_the_loss_and_the_gradients_of_the_whole_batch(case: str, shares: Shares) -> None:
    expected = figures(CASES[case])
    first, second = (share[case] for share in shares)
    torch.testing.assert_close((first["losses"] + second["losses"]) / 2, expected["losses"], rtol=1e-5, atol=0)
    for name in ("queries", "targets", "extras"):
        # The mean over processes is not yet taken: only a process itself has gradients of its vectors.
        torch.testing.assert_close(
            torch.cat([first[name], second[name]]), expected[name], rtol=0, atol=1e-5 * float(expected[name].abs().max())
        )
    torch.testing.assert_close(first["temperature"] + second["temperature"], expected["temperature"], rtol=1e-5, atol=0)
