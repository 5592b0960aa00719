"""Fixtures of the stages' tests."""

from pathlib import Path

import pytest

from tests.integration.stages.validated_data import make_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=60)
