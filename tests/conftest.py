"""Fixtures that all tests share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# Before torch is imported, and for every process that a test starts: models this small lose more by waiting for a second thread than they
# gain, and a training in a process of its own takes four times as long where other tests run beside it.
os.environ["OMP_NUM_THREADS"] = "1"
# Without these Chromium asks the network for updates, and waits.
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module", autouse=True)
def _own_tracking_uri() -> Iterator[None]:
    """MLflow writes the address it was given, and the sign-in, into the environment, where the next file's training would find it."""
    yield
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        os.environ.pop(variable, None)


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    """363 real clips with real search words, where they stand beside the project."""
    folder = ROOT.parent / "shared" / "clips"
    if not folder.is_dir():
        pytest.skip(f"the shared clips are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model, in Hugging Face format."""
    # Only here: torch takes seconds to import, and most tests need none of it.
    from reelnest.backbones.tiny import build_tiny
    from reelnest.settings import Tiny
    from tests.support.model_inputs import TEXTS

    folder = tmp_path_factory.mktemp("tiny")
    build_tiny(folder, TEXTS, Tiny(), seed=0)
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by Playwright (`browser.new_page()`)."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None and "CI" not in os.environ:
        pytest.skip("there is no Chromium to look at pages with: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=CHROMIUM_OPTIONS)
        yield started
        started.close()
