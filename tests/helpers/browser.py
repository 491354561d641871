"""A real headless browser for tests: Chromium, which reads a page from the disk and is watched while it does."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--allow-file-access-from-files"),
)


def chromium() -> str:
    """Its path, of CHROMIUM or of the first that is installed; the test is skipped where there is none."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip("no Chromium is installed: apt-get install chromium, or set CHROMIUM to its path")
    return found


@contextlib.contextmanager
def started() -> Iterator[Browser]:
    """A browser with a new, empty profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        yield browser
        browser.close()


class Watched:
    """A page, and what it did that it should not.

    Attributes:
        page: the page of playwright.
        complaints: errors, and warnings of the console.
        requests: every address it asked for but the page's own.
    """

    def __init__(self, browser: Browser, path: Path, width: int = 1280, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("console", self._said)
        own = path.as_uri()
        ours = (own, "data:", "blob:")
        self.page.on("request", lambda r: None if r.url.startswith(ours) else self.requests.append(r.url))
        self.page.goto(own)
        self.page.wait_for_selector("#pareto-plot[data-drawn]")

    def _said(self, message) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def reach(self, part: str) -> None:
        """Scroll to a part of the page, which is drawn only then."""
        self.page.locator(f"#{part}").scroll_into_view_if_needed()
