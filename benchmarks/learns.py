"""Does it learn? The demo with three seeds: task reward (T), task x efficiency (T+E), and vanilla for comparison.

    python benchmarks/learns.py [--seeds 1 3 4] [--arms TE T vanilla]

No setting was tuned on these seeds or evaluation questions (seeds 102 and 103 in the config). T and T+E of a seed
share data, SFT and its evaluation. Finished runs are kept, so a stopped command can be resumed. Vanilla has one round
with the same tokens per generation. Prints one Markdown table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ARMS = {
    "TE": [],
    "T": ["--rewards=[{fn: answer}]"],
    "vanilla": ["--rewards=[{fn: answer}]", "--protocol.name=vanilla", "--data.segment_tokens_choices=null"],
}


def run(arm: str, seed: int) -> Path:
    """Runs all stages of one arm and returns its folder."""
    name = f"learns-{arm}-{seed}"
    folder, shared = Path("runs") / name, Path("runs") / f"learns-TE-{seed}"
    if arm == "T" and not folder.exists() and (shared / "eval").exists():
        for part in ("base", "data", "sft"):
            shutil.copytree(shared / part, folder / part)
        (folder / "eval" / "episodes").mkdir(parents=True)
        for path in (shared / "eval").rglob("sft_*"):
            shutil.copy(path, folder / path.relative_to(shared))
    settings = [f"--name={name}", f"--seed={seed}", f"--model.build_args.seed={seed}", f"--data.traces.seed={seed}"]
    command = [sys.executable, "-m", "rl.app.cli", "run", "configs/demo.yaml", *settings, *ARMS[arm]]
    started = time.time()
    with (folder.parent / f"{name}.log").open("a") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
    print(f"{name}: {time.time() - started:.0f} s", flush=True)
    return folder


def row(arm: str, seed: int, folder: Path) -> str:
    summary = json.loads((folder / "eval" / "summary.json").read_text())
    cells = [arm, str(seed)]
    for dataset in ("held_out", "harder"):
        for stage in ("sft", "rl"):
            found = next(r for r in summary if (r["stage"], r["dataset"]) == (stage, dataset))
            low, high = found["accuracy_ci95"]
            cells.append(f"{100 * found['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})")
            if dataset == "held_out":
                cells.append(f"{found['rounds_mean']:.2f} / {found['tokens_mean']:.0f}")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    options = parser.parse_args()
    Path("runs").mkdir(exist_ok=True)
    rows = []
    for seed in options.seeds:
        for arm in options.arms:
            if arm != "vanilla" or seed == options.seeds[0]:
                rows.append(row(arm, seed, run(arm, seed)))
    columns = ["SFT held out %", "rounds / tokens", "RL held out %", "rounds / tokens", "SFT harder %", "RL harder %"]
    print("| reward | seed | " + " | ".join(columns) + " |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
