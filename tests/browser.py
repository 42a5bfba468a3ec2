"""A real headless Chromium for tests: what it complains about and whom it calls is kept."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@dataclass
class Watch:
    """What a page did."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def check(self) -> None:
        """No console error or warning, no exception, no request to anywhere but this machine."""
        assert self.complaints == []
        elsewhere = [url for url in self.requests if urlsplit(url).scheme not in ("data", "blob")
                     and urlsplit(url).hostname != "127.0.0.1"]  # fmt: skip
        assert self.requests and elsewhere == []


def chromium() -> str:
    """The browser's path; the test is skipped where there is none, but for CI, which must have one."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found and os.environ.get("CI_NEEDS_BROWSER"):
        raise RuntimeError("no Chromium on this machine, and CI_NEEDS_BROWSER is set")
    return found or pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")


@contextmanager
def open_browser(**settings):
    """(page, Watch) of a fresh browser."""
    path = chromium()
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is in requirements/test.lock")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900}, **settings)
        page.set_default_timeout(120_000)
        watch = Watch()
        page.on("console", lambda m: watch.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: watch.complaints.append(str(error)))
        page.on("request", lambda request: watch.requests.append(request.url))
        try:
            yield page, watch
        finally:
            browser.close()


def serious_issues(page) -> list[str]:
    """axe-core's serious and critical findings on the page as it stands."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is in requirements/test.lock")
    found = axe.Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found if v["impact"] in ("serious", "critical")]


def wait_for(page, expression: str, seconds: float = 120.0) -> None:
    """Waits until a JavaScript expression is true. Playwright's own way needs eval, which the page forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"not true within {seconds} s: {expression}"
        page.wait_for_timeout(50)
