"""The table and pictures of docs/eval.md: three protocols and both ablations of InftyThink+ on the demo's model.

    .venv/bin/python benchmarks/eval_table.py             # needs runs/demo (./launch.sh); some minutes on 2 cores

One `sawtooth eval`, printed before it runs. Its samples are cached in the results' folder, so it can be resumed.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_CHAINS = "{{source: examples/chains/task.py:questions, label: {}, count: {}, seed: {}, steps: {}, held_out: true}}"


def command(run: Path, out: Path, samples: int) -> list[str]:
    """Returns the command: the demo's sampling (temperature 1, at most 5 rounds of 48 tokens) on held-out questions."""
    words = [sys.executable, "-P", "-m", "rl.app.cli", "eval", str(run / "rl/final"), "--data"]
    words += [_CHAINS.format("held_out", 100, 112, [8, 16]), _CHAINS.format("harder", 100, 113, [18, 24])]
    words += ["--protocol", "inftythink", "vanilla", "delethink"]
    words += ["--summarize-at", "model", "fixed:16", "fixed:34", "random:16-48"]
    words += ["--summarizer", "model", str(run / "sft/final"), "examples/chains/task.py:summarize"]
    words += [
        "--samples",
        str(samples),
        "--temperature",
        "1",
        "--top-p",
        "1",
        "--max-tokens",
        "48",
        "--max-rounds",
        "5",
    ]
    return [*words, "--dtype", "float32", "--out", str(out), "--cache", str(out / "samples.sqlite")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=Path("runs/eval-table/eval"))
    parser.add_argument("--samples", type=int, default=8)
    options = parser.parse_args()
    words = command(options.run, options.out, options.samples)
    print(shlex.join(["sawtooth", *words[4:]]), flush=True)
    return subprocess.run(words, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
