"""What tests of decoding share."""

import os
import shutil

import pytest


@pytest.fixture(scope="module")
def ffmpeg() -> str:
    program = shutil.which("ffmpeg")
    if program is None and "CI" not in os.environ:
        pytest.skip("there is no ffmpeg to compare with: apt-get install ffmpeg")
    assert program is not None
    return program
