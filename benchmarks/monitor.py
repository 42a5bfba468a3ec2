"""The monitor over a million episodes of three rounds: first page, every filter, memory. Server and browser are real.

    python benchmarks/monitor.py --episodes 1000000

Writes the run into a temporary folder (some minutes and some GB), starts `sawtooth monitor` on it, opens it in headless
Chromium, and then requests every filter and every order several times. A search through all texts returns in parts,
each within its time limit; the total time is also printed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
import psutil
from monitor_episodes import RARE, write_run
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
_STATUS = "document.querySelector('[data-testid=result-status]').innerText"
FILTERS = [
    {}, {"step_from": 400, "step_to": 420}, {"question": "question"}, {"question": "zzzz"}, {"correct": "right"},
    {"correct": "wrong", "stop": "malformed"}, {"stop": "malformed,truncated"}, {"rounds_min": 2, "rounds_max": 2},
    {"tokens_min": 200, "tokens_max": 220}, {"sort": "-tokens"}, {"sort": "advantage", "correct": "right"},
    {"sort": "-reward", "offset": 500_000}, {"group": "7"}, {"offset": 999_000},
]  # fmt: skip


@contextmanager
def monitor(folder: Path):
    """Yields (address, process) of the real command."""
    command = [sys.executable, "-P", "-m", "rl.app.cli", "monitor", str(folder), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().split()[1], psutil.Process(process.pid)
        finally:
            process.terminate()


def first_pages(folder: Path, page: Page, repeats: int) -> None:
    """Times first pages, each on a server that was just started and whose index is empty."""
    for name, hash, seen in (
        ("overview, figures", "", "[data-testid=run]"),
        ("overview, first chart drawn", "", ".chart .js-plotly-plot .main-svg"),
        ("episodes, table filled", "#/episodes", "[data-testid=episodes-table] tbody tr"),
    ):
        seconds = []
        for _ in range(repeats):
            with monitor(folder) as (address, _):
                page.goto("about:blank")
                started = time.perf_counter()
                page.goto(address + hash)
                page.locator(seen).first.wait_for()
                seconds.append(time.perf_counter() - started)
        print(
            f"first page, {name}: {median(seconds):.2f} s (median of {repeats}; at most {max(seconds):.2f} s)",
            flush=True,
        )


def wait_for_index(client: httpx.Client) -> None:
    started = time.perf_counter()
    while True:
        state = client.get("/api/sources", params={"run": "million"}).json()["indexing"]
        if state["files"] == state["of"]:
            break
        time.sleep(0.1)
    print(f"all {state['of']} files indexed {time.perf_counter() - started:.1f} s after the start", flush=True)


def ask(client: httpx.Client, filters: dict, repeats: int) -> None:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        answer = client.get("/api/episodes", params={"run": "million", "source": "train", **filters})
        seconds.append(time.perf_counter() - started)
        answer.raise_for_status()
    found = answer.json()
    words = ", ".join(f"{k}={v}" for k, v in filters.items()) or "none"
    print(
        f"filter {words}: {median(seconds):.3f} s (at most {max(seconds):.3f} s), {found['total']} episodes", flush=True
    )


def search(client: httpx.Client, text: str) -> None:
    """Continues until everything is searched or a page is full, as the page does."""
    found, after, seconds = 0, None, []
    while True:
        started = time.perf_counter()
        parameters = {"run": "million", "source": "train", "text": text, "limit": 50 - found}
        answer = client.get("/api/episodes", params=parameters | ({"after": after} if after else {})).json()
        seconds.append(time.perf_counter() - started)
        found, after = found + len(answer["rows"]), answer["search"]["after"]
        if not after or found >= 50:
            break
    searched = f"{answer['search']['searched']} of {answer['search']['of']} searched"
    longest, whole = max(seconds), sum(seconds)
    print(
        f"text {text!r}: first answer {seconds[0]:.2f} s, longest {longest:.2f} s; {found} found in {len(seconds)} "
        f"answers, {whole:.1f} s, {searched}",
        flush=True,
    )


def by_hand(page: Page, address: str) -> None:
    """Times a filter as a user sets it: from the input to the changed table, with the page's own delay."""
    page.goto(f"{address}#/episodes?run=million&source=train")
    page.locator("[data-testid=episodes-table] tbody tr").first.wait_for()
    status = page.get_by_test_id("result-status")
    for name, act in (
        ("result = right", lambda: page.locator("#filter-correct").select_option("right")),
        ("question", lambda: page.locator("#filter-question").fill("12")),
        ("at least 200 tokens", lambda: page.locator("[name=tokens_min]").fill("200")),
    ):
        before, started = status.inner_text(), time.perf_counter()
        act()
        while (now := page.evaluate(_STATUS)) == before or "episode" not in now:
            page.wait_for_timeout(10)
        print(f"in the browser, {name}: {time.perf_counter() - started:.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name) / "million"
        started = time.perf_counter()
        write_run(folder, episodes=options.episodes)
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet")) / 1e9
        print(
            f"{options.episodes} episodes written in {time.perf_counter() - started:.0f} s, {size:.2f} GB", flush=True
        )
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        first_pages(folder, page, options.repeats)
        with monitor(folder) as (address, process), httpx.Client(base_url=address, timeout=60) as client:
            wait_for_index(client)
            for filters in FILTERS:
                ask(client, filters, options.repeats)
            for text in ("answer is", RARE, "nowhere at all"):
                search(client, text)
            by_hand(page, address)
            peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]
            print(f"peak memory of the server: {int(peak) / 2**20:.2f} GiB")
        browser.close()


if __name__ == "__main__":
    main()
