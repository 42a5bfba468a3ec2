"""The pictures of docs/monitor.md: the monitor's pages over the demo's run, in headless Chromium.

./launch.sh && python benchmarks/monitor_pictures.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from monitor import CHROMIUM, FLAGS
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]


def overview(page: Page, address: str) -> None:
    page.goto(f"{address}#/overview?runs=demo&stage=rl&smooth=0.5")
    page.locator("#chart-accuracy .main-svg").first.wait_for()
    page.wait_for_timeout(2500)
    page.screenshot(path=ROOT / "docs" / "monitor-overview.png")


def episodes(page: Page, address: str) -> None:
    page.goto(f"{address}#/episodes?run=demo&source=train&stop=malformed,max_rounds&sort=-tokens")
    page.locator("[data-testid=episodes-table] tbody tr").first.wait_for()
    page.wait_for_timeout(500)
    page.screenshot(path=ROOT / "docs" / "monitor-episodes.png")


def group(page: Page, address: str) -> None:
    """A group of an early step, with many rounds and some correct episodes."""
    page.goto(
        f"{address}#/episodes?run=demo&source=train&correct=right&step_from=3&step_to=5&rounds_min=4&rounds_max=4"
    )
    page.locator("a.row-link").first.click()
    page.get_by_test_id("cards").wait_for()
    page.wait_for_timeout(500)
    asked = re.search(r"episode=(\d+)", page.url)[1]
    shown = page.locator(f'[data-testid=episode][data-episode="{asked}"]')
    shown.locator("details[data-part=prompt]").nth(1).locator("summary").click()
    shown.locator("mark.history").first.wait_for()
    page.mouse.move(0, 0)
    page.wait_for_timeout(3000)
    page.screenshot(path=ROOT / "docs" / "monitor-group.png")
    page.set_viewport_size({"width": 1280, "height": 900})


def compare(page: Page, address: str) -> None:
    page.goto(f"{address}#/compare?a=demo:eval/sft_held_out&b=demo:eval/rl_held_out&kind=lost")
    page.get_by_test_id("compare-row").first.wait_for()
    page.wait_for_timeout(300)
    page.screenshot(path=ROOT / "docs" / "monitor-compare.png")


def main() -> None:
    command = [sys.executable, "-P", "-m", "rl.app.cli", "monitor", "runs/demo", "--port", "0"]
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server,
        sync_playwright() as playwright,
    ):
        address = re.search(r"http\S+", server.stdout.readline())[0]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        for draw in (overview, episodes, group, compare):
            draw(page, address)
        browser.close()
        server.terminate()


if __name__ == "__main__":
    main()
