"""Does the monitor slow training? One RL run of the demo; the page is open in some blocks of steps, frozen in others.

The monitor and a real headless Chromium with its overview run next to the training on the same machine. In every other
block both are paused by SIGSTOP and then resumed by SIGCONT, so that both kinds of block come from one run and no step
includes their startup. The first step of a block is omitted. Needs a finished `./launch.sh` for its SFT model.

    python benchmarks/monitor_training.py --blocks 10 --steps 8
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
LEFT_OUT = 10  # first steps, in which episodes get shorter from step to step


def copy_run(folder: Path) -> None:
    """Copies the inputs of RL from the demo's run."""
    source, target = ROOT / "runs" / "demo", folder / "runs" / "demo"
    for part in ("base", "data", "sft"):
        shutil.copytree(source / part, target / part)
    (folder / "examples").symlink_to(ROOT / "examples")


def step_lines(folder: Path) -> list[dict]:
    """Returns the log lines of RL's steps so far."""
    path = folder / "runs" / "demo" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return [row for row in rows if row.get("stage") == "rl" and "step_time" in row]


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def freeze(processes: list[psutil.Process], stop: bool) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP if stop else signal.SIGCONT)


def measure(blocks: int, steps: int, folder: Path) -> tuple[list[list[dict]], float]:
    """Returns log lines per block, starting with an open one, and the CPU seconds of monitor and browser."""
    copy_run(folder)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    total = LEFT_OUT + blocks * steps
    command = [sys.executable, "-P", "-m", "rl.app.cli"]
    training = subprocess.Popen(
        [*command, "rl", str(ROOT / "configs/demo.yaml"), f"--rl.max_steps={total}", "--rl.save_steps=1000"],
        cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
    )  # fmt: skip
    serving = subprocess.Popen(
        [*command, "monitor", "runs", "--port", "0"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    address = serving.stdout.readline().split()[1]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.goto(address)
        watchers = family(psutil.Process(serving.pid))
        watchers += [p for p in psutil.Process().children(recursive=True) if "chrom" in p.name()]
        found: list[list[dict]] = []
        for block in range(blocks):
            freeze(watchers, stop=block % 2 == 1)
            wanted = LEFT_OUT + (block + 1) * steps
            while len(step_lines(folder)) < wanted:
                assert training.poll() is None, "training has ended early"
                time.sleep(0.1)
            found.append(step_lines(folder)[wanted - steps + 1 : wanted])
            rows = [row["step_time"] for row in found[-1]]
            print(
                f"block {block + 1}/{blocks} {'frozen' if block % 2 else 'open  '}: median step {median(rows):.3f} s",
                flush=True,
            )
        freeze(watchers, stop=False)
        spent = sum(sum(p.cpu_times()[:2]) for p in watchers if p.is_running())
        browser.close()
    serving.terminate()
    training.wait(60)
    return found, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--steps", type=int, default=8, help="steps per block")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found, spent = measure(options.blocks, options.steps, Path(name))
    blocks = [median(row["step_time"] for row in rows) for rows in found]
    # Each block against the mean of its neighbors of the other kind, which cancels a drift over training.
    ratios = {0: [], 1: []}
    for n in range(1, len(blocks) - 1):
        ratios[n % 2].append(blocks[n] / (0.5 * (blocks[n - 1] + blocks[n + 1])))
    both = ratios[0] + [1 / r for r in ratios[1]]
    span = f"median of {len(both)}; {min(both):.3f} to {max(both):.3f}"
    print(f"step with the monitor open / without: {median(both):.3f} ({span})")
    print(f"noise: blocks of one kind differ by +-{100 * _noise(blocks):.1f} % (half the range over the median)")
    rows = [row for block in found for row in block]
    share = [100 * row["time/store"] / row["step_time"] for row in rows]
    print(f"storing episodes: {median(share):.2f} % of a step (median of {len(share)}; at most {max(share):.2f} %)")
    print(f"CPU seconds of monitor and browser: {spent:.1f} in {sum(row['step_time'] for row in rows):.0f} s of steps")


def _noise(blocks: list[float]) -> float:
    return max((max(b) - min(b)) / 2 / median(b) for b in (blocks[::2], blocks[1::2]))


if __name__ == "__main__":
    main()
