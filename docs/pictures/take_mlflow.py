"""Takes the picture of MLflow's comparison of runs by dim, for docs/registry.md."""

from pathlib import Path

from playwright.sync_api import Browser

SCREEN = {"width": 1200, "height": 720}
CHARTS = "test/all/(hit_at_1|recall_at_1|recall_at_10)$"


def mlflow(browser: Browser, training_runs: str, picture: Path) -> None:
    """Saves the `CHARTS` by dim, with a line for each run, as a PNG.

    Args:
        browser: Chromium.
        training_runs: The address of the training runs, which `make up` prints.
        picture: The file to write.
    """
    page = browser.new_page(viewport=SCREEN, color_scheme="light")  # type: ignore[arg-type]
    page.goto(f"{training_runs}&compareRunsMode=CHART")
    page.get_by_text("Add chart").first.wait_for(timeout=60_000)
    page.get_by_role("button", name="Close").last.click()  # MLflow's assistant, which covers a quarter of the page
    page.get_by_placeholder("Search metric charts").press_sequentially(CHARTS, delay=20)
    page.wait_for_timeout(4000)  # the charts are drawn
    page.screenshot(path=picture)
    page.close()
