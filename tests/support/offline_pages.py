"""Pages opened in Chromium without a network, and what is wrong with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SCREENS = [("light", 1400), ("dark", 400)]
LOCAL = ("file:", "data:", "blob:", "http://127.0.0.1:", "http://localhost:")
EMPTY_TABLES = """[...document.querySelectorAll("table")]
    .filter((table) => ![...table.querySelectorAll("td")].some((cell) => cell.textContent.trim() || cell.querySelector("svg, img")))
    .map((table) => `empty table: ${table.textContent.trim().slice(0, 80)}`)"""


class OfflinePage:
    """An open page. `faults()` are requests that left this machine, errors of the console, and tables without content."""

    def __init__(self, page: Any, faults: list[str]) -> None:
        self.page = page
        self._faults = faults

    def faults(self) -> list[str]:
        return [*self._faults, *self.page.evaluate(EMPTY_TABLES)]


@contextmanager
def opened_offline(browser: Any, address: str, scheme: str = "light", width: int = 1400) -> Iterator[OfflinePage]:
    # Chromium that is offline does not reach 127.0.0.1 either; there the route alone cuts the network.
    context = browser.new_context(
        offline=address.startswith("file:"), color_scheme=scheme, viewport={"width": width, "height": 900}, service_workers="block"
    )
    faults: list[str] = []

    def only_here(route: Any) -> None:
        if route.request.url.startswith(LOCAL):
            route.continue_()
        else:
            faults.append(f"request: {route.request.url}")
            route.abort()

    context.route("**/*", only_here)
    page = context.new_page()
    page.on("console", lambda message: faults.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(f"script: {error}"))
    page.goto(address)
    page.wait_for_load_state("load")
    yield OfflinePage(page, faults)
    context.close()
