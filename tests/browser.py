"""Debian's chromium for tests of pages, driven by playwright; nothing is downloaded but Debian's package."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


class NoBrowser(Exception):
    """There is none, and it cannot be installed; the message says why."""


def executable() -> str:
    """A chromium; it is installed if there is none.

    Raises:
        NoBrowser: it cannot be.
    """
    for name in NAMES:
        if (found := shutil.which(name)) is not None:
            return found
    if shutil.which("apt-get") is None:
        raise NoBrowser("no chromium found, and there is no apt-get to install it with")
    root = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if root and shutil.which("sudo") is None:
        raise NoBrowser("no chromium found, and only root can install it")
    quiet = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "--quiet"]
    for command in ([*quiet, "update"], [*quiet, "install", "--yes", "--no-install-recommends", "chromium"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise NoBrowser(f"{' '.join(command)} ended with {done.returncode}: {last}")
    found = shutil.which("chromium")
    if found is None:
        raise NoBrowser("no chromium found, even with Debian's package installed")
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser without a window.

    Raises:
        NoBrowser: there is none.
    """
    path = executable()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass
class Seen:
    """A page as a person has it open, and what it asked for and complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def run(self, expression: str, argument: Any = None) -> Any:
        """What JavaScript gives."""
        return self.page.evaluate(expression, argument)

    def rows(self, chart: str) -> list[dict[str, Any]]:
        """What a chart's own data hold now."""
        found: list[dict[str, Any]] = self.run("name => tinylab.views[name].data('table').map(row => ({...row}))", chart)
        return found

    def place(self, chart: str, field_: str, value: str) -> tuple[float, float]:
        """The middle of the mark of a chart whose datum has a value, in pixels of the window."""
        self.page.locator(f"#chart-{chart}").scroll_into_view_if_needed()
        x, y = self.run("""([chart, field, value]) => {
            const view = tinylab.views[chart], [left, top] = view.origin();
            let found = null;
            const look = (item, x, y) => {
              for (const one of item.items || []) {
                if (one.datum && String(one.datum[field]) === value && one.mark.marktype !== "text" && one.bounds)
                  found = [x + (one.bounds.x1 + one.bounds.x2) / 2, y + (one.bounds.y1 + one.bounds.y2) / 2];
                look(one, x + (one.mark ? one.x || 0 : 0) * (one.items ? 1 : 0), y + (one.items && one.mark ? one.y || 0 : 0));
              }
            };
            look(view.scenegraph().root, 0, 0);
            const box = document.querySelector(`#chart-${chart} canvas`).getBoundingClientRect();
            return [box.left + left + found[0], box.top + top + found[1]];
        }""", [chart, field_, value])
        return float(x), float(y)

    def tooltip(self) -> dict[str, str]:
        """What is shown beside the pointer, by its titles."""
        rows = self.page.locator("#vg-tooltip-element.visible tr")
        rows.first.wait_for()
        return {row.locator("td.key").inner_text().rstrip(":"): row.locator("td.value").inner_text() for row in rows.all()}


@contextmanager
def opened(on: Browser, file: Path, width: int = 1100, height: int = 900) -> Iterator[Seen]:
    """A file as a page, ready."""
    context = on.new_context(viewport={"width": width, "height": height}, offline=True)
    page = context.new_page()
    seen = Seen(page)
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("console", lambda message: seen.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.goto(file.as_uri())
    page.evaluate("() => tinylab.ready")
    yield seen
    context.close()
