"""Fixtures that all tests share."""

import gc
import logging
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# Set before torch is imported, and inherited by all processes of the tests. Small models run slower with a second thread, and a training
# process takes four times as long when other tests run in parallel.
os.environ["OMP_NUM_THREADS"] = "1"
# Tests use no Hub. Where it cannot be reached, its library would try again for 23 seconds.
os.environ["HF_HUB_OFFLINE"] = "1"
# A handler that a library made in an earlier test may hold the closed stream of that test. Log lines of its threads would print a traceback
# into the output of the command under test. A log call with wrong arguments still fails its test: pytest's own handler raises.
logging.raiseExceptions = False
# Without these, Chromium tries to download updates, and waits.
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Excludes what the tests' modules import from garbage collection, which would take a tenth of the unit tests' time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _own_tracking_uri() -> Iterator[None]:
    """Removes the address and credentials that MLflow writes into the environment, which the next test file would use."""
    yield
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        os.environ.pop(variable, None)


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    """363 real clips with real queries. Skips the test if they are not next to the project."""
    folder = ROOT.parent / "shared" / "clips"
    if not folder.is_dir():
        pytest.skip(f"the shared clips are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model, in Hugging Face format."""
    # Imported here, because torch takes seconds to import and most tests do not need it.
    from reelnest.backbones.tiny import build_tiny
    from reelnest.settings import Tiny
    from tests.support.model_inputs import TEXTS

    folder = tmp_path_factory.mktemp("tiny")
    build_tiny(folder, TEXTS, Tiny(), seed=0)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by Playwright (`browser.new_page()`). It ends with its file, because its event loop would hinder others."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None and "CI" not in os.environ:
        pytest.skip("needs Chromium to open pages: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=CHROMIUM_OPTIONS)
        yield started
        started.close()
