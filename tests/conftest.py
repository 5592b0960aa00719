"""Fixtures that all tests share."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    """363 real clips with real search words, where they stand beside the project."""
    folder = ROOT.parent / "shared" / "clips"
    if not folder.is_dir():
        pytest.skip(f"the shared clips are not at {folder}")
    return folder
