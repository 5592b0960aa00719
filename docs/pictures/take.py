"""Takes the pictures of the README and the docs from a finished demo.

Usage, in the project's folder, after `make demo` and `reelnest index`: `python docs/pictures/take.py`. Needs Chromium.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import requests
from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

FOLDER = Path(__file__).parent
PAGES_PORT, MLFLOW_PORT = 8791, 8792
SEARCH = "pink bar rising, a black background"
SCREEN: ViewportSize = {"width": 1200, "height": 860}
CHARTS = "test/all/(hit_at_1|recall_at_1|recall_at_10)$"
"""MLflow's charts by dim that docs/registry.md shows."""


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


def take(browser: Browser, address: str, name: str, arrange: Callable[[Page], None] = lambda _: None, seconds: float = 1.0) -> None:
    """Saves the top of a page as `name`.webp, some seconds after `arrange` did what has to be typed and clicked."""
    page = browser.new_page(viewport=SCREEN, color_scheme="light")
    page.goto(address)
    arrange(page)
    page.wait_for_timeout(seconds * 1000)
    with Image.open(BytesIO(page.screenshot())) as image:  # Chromium itself writes no WebP, which is a third of a PNG's size
        image.save(FOLDER / f"{name}.webp", quality=80, method=6)
    page.close()


def show_charts(page: Page) -> None:
    """Shows `CHARTS` on MLflow's page of runs, with a line for each run."""
    page.get_by_text("Add chart").first.wait_for(timeout=60_000)
    page.get_by_role("button", name="Close").last.click()  # MLflow's assistant, which covers a quarter of the page
    page.get_by_placeholder("Search metric charts").press_sequentially(CHARTS, delay=20)


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
            address = f"{runs}/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART"
            take(browser, address, "mlflow", show_charts, seconds=4)
        browser.close()


if __name__ == "__main__":
    main()
