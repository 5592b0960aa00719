"""Takes the pictures of the README and the docs from a finished demo.

Usage, in the project's folder, after `make demo` and `reelnest index`: `python docs/pictures/take.py`. Needs Chromium.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import requests
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from take_mlflow import mlflow

FOLDER = Path(__file__).parent
PAGES_PORT, MLFLOW_PORT = 8791, 8792
SEARCH = "pink bar rising, a black background"
SCREEN = {"width": 1200, "height": 860}


@contextmanager
def server(command: list[str], address: str) -> Iterator[None]:
    """Runs a server until the block ends; enters the block when the address answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                requests.get(address, timeout=5)
                break
            except requests.RequestException:
                time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(60)


def take(browser: Browser, address: str, name: str, *, wait_for: str | None = None, seconds: float = 1.0) -> None:
    """Saves the top of a page as `name`.webp: WebP is a third of a PNG's size."""
    page = browser.new_page(viewport=SCREEN, color_scheme="light")  # type: ignore[arg-type]
    page.goto(address)
    if wait_for is not None:
        page.wait_for_selector(wait_for, timeout=60_000)
    page.wait_for_timeout(seconds * 1000)
    picture = FOLDER / f"{name}.png"
    page.screenshot(path=picture)
    page.close()
    compress(picture)


def compress(picture: Path) -> None:
    """Replaces a PNG by a WebP."""
    with Image.open(picture) as image:
        image.save(picture.with_suffix(".webp"), quality=80, method=6)
    picture.unlink()


def main() -> None:
    """Takes all pictures."""
    project = Path.cwd()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    binaries = Path(sys.executable).parent
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        take(browser, (project / "reports/evaluation.html").as_uri(), "evaluation")
        pages = f"http://127.0.0.1:{PAGES_PORT}"
        with server([str(binaries / "reelnest"), "serve", "--port", str(PAGES_PORT)], pages):
            take(browser, f"{pages}/?q={quote(SEARCH)}", "search", seconds=4)
        runs = f"http://127.0.0.1:{MLFLOW_PORT}"
        store = ["--backend-store-uri", f"sqlite:///{project / 'mlflow.db'}"]
        with server([str(binaries / "mlflow"), "server", *store, "--workers", "1", "--port", str(MLFLOW_PORT)], f"{runs}/health"):
            picture = FOLDER / "mlflow.png"
            mlflow(browser, f"{runs}/#/experiments/1/runs?workflowType=machine_learning", picture)
            compress(picture)
        browser.close()


if __name__ == "__main__":
    main()
