import errno
import json
import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from reelnest import cli
from reelnest.errors import storage_problem
from reelnest.launch.failures import Failure


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_disk_and_a_lack_of_permission_are_told_without_a_traceback(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise OSError(number, os.strerror(number), "reports/validation.json")

    monkeypatch.setattr(cli, "cli", fail)
    with pytest.raises(SystemExit) as raised:
        cli.app()
    text = capsys.readouterr().err
    assert raised.value.code == 1
    assert text.startswith("reelnest: error: reports/validation.json: ")
    assert os.strerror(number) in text
    assert ("Free some space" in text) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert "Traceback" not in text


def test_other_errors_of_the_system_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "x")

    monkeypatch.setattr(cli, "cli", fail)
    with pytest.raises(FileNotFoundError):
        cli.app()


def test_a_library_that_wraps_the_error_of_a_full_disk_is_understood(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # as a quota
    try:
        with pytest.raises(SafetensorError) as raised:
            save_file({"weight": torch.zeros(100_000)}, tmp_path / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "disk is full" in str(storage_problem(raised.value))
    Failure.of(raised.value, rank=0).write(tmp_path)
    failure = json.loads((tmp_path / "0.json").read_text())
    assert (failure["status"], failure["traceback"], "Free some space" in failure["text"]) == (1, None, True)
