"""A run folder for the monitor's tests: real parquet files, a tokenizer, and texts that a model should not write."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from sys import executable

from rewards.score import Scores
from rollout.protocol import get_protocol
from rollout.store import EpisodeStore
from rollout.types import Episode, Segment, StopReason

ROOT = Path(__file__).resolve().parents[1]
PROTOCOL = get_protocol("inftythink", segment_tokens=32, summary_tokens=8, max_rounds=3)
QUESTIONS = [
    "What is $\\frac{1}{2}+\\frac{1}{2}$? It costs $5 or $6.",
    "k=3 l+4 m*7 n-1 ?",
    "<script>window.hacked = 1</script> <img src=x onerror='window.hacked = 2'> 100% of _all_ ?",
]
HOSTILE = "<script>window.hacked = 3</script><img src='http://example.org/x.png' onerror='window.hacked = 4'>"


def segment(tokenizer, question: str, history: str | None, text: str, finish: str = "stop") -> Segment:
    """A round as the episode loop makes it, from text."""
    prompt = PROTOCOL.render_prompt(tokenizer, question, history)
    ids = tokenizer.encode(text, add_special_tokens=False)
    logprobs = [-0.125 * (n % 9) for n in range(len(ids))]
    return Segment(prompt, ids, logprobs, text, finish, PROTOCOL.parse(text))


def episode(tokenizer, group: int, question: str, right: bool, kind: str = "answered") -> Episode:
    """Two rounds that end as `kind` says."""
    first = f"<think>\n{HOSTILE} so l+4=7\n</think><summary>so far: l=7 and $x^2$</summary>"
    second = "<think>\nnow m=9\n</think><summary>so far: l=7, m=9 and $x^2$</summary>"
    last = {
        "answered": f"<think>\nrare needle {group}\n</think>It is \\boxed{{{1 if right else 2}}}",
        "malformed": "<think>\nx\n</think><summary></summary>",
        "truncated": "<think>\nand so on and on",
        "max_rounds": second,
    }[kind]
    texts = [(None, first), ("so far: l=7 and $x^2$", second), ("so far: l=7, m=9 and $x^2$", last)]
    segments = [segment(tokenizer, question, history, text) for history, text in texts]
    return Episode(question, "1", group, segments, StopReason(kind), {"level": 3}, seconds=1.5)


def write_step(folder: Path, tokenizer, step: int, name: str | None = None) -> None:
    """Three groups of four episodes: more are right from step to step, one is malformed, one truncated."""
    episodes, correct = [], []
    for group, question in enumerate(QUESTIONS):
        for sample in range(4):
            right = sample < min(3, step // 2 + (group == 1))
            kind = (
                "malformed" if (group, sample) == (2, 3) else "truncated" if (group, sample) == (1, 3) else "answered"
            )
            episodes.append(episode(tokenizer, group, question, right, kind))
            correct.append(float(right))
    scores = Scores(total=correct, values={"answer": correct, "short": [0.5] * len(correct)}, correct=correct)
    EpisodeStore(folder).write(
        name or f"train_{step:06d}", 0 if name else step, episodes, scores, [0.25] * len(correct)
    )


def metrics_line(step: int) -> str:
    """A log of step 1, 2, …"""
    values = {
        "reward/mean": 0.1 * step, "reward/answer/mean": 0.1 * step, "reward/answer/errors": 0.0,
        "accuracy/mean": 0.1 * step, "episode/rounds/mean": 3.0, "episode/rounds/max": 3.0, "episode/tokens/mean": 90.0,
        "episode/context/mean": 60.0, "episode/stop/answered": 0.8, "episode/stop/malformed": 0.1,
        "episode/stop/truncated": 0.1, "episode/stop/max_rounds": 0.0, "episode/stop/failed": 0.0,
        "summary/tokens/mean": 8.0, "group/frac_zero_std": 0.3, "entropy": 1.0, "mismatch/logprob_diff/mean": 1e-4,
        "clip_ratio/high_mean": 0.0, "time/rollout": 2.0, "time/update": 1.0, "time/store": 0.01, "step_time": 3.1,
        "loss": 0.01, "grad_norm": 0.2, "learning_rate": 1e-4,
    }  # fmt: skip
    return json.dumps({"stage": "rl", "step": step, "time": time.time() + 600, **values}) + "\n"


def make_run(folder: Path, tokenizer, steps: int = 6) -> Path:
    """A run of `steps` steps that goes on."""
    (folder / "rl" / "final").mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"name: {folder.name}\nprotocol: {{name: inftythink, segment_tokens: 32, summary_tokens: 8, max_rounds: 3}}\n"
        "rl: {max_steps: 30}\nrewards:\n- {fn: answer}\n- {fn: mine.py:short, name: short}\n"
    )
    tokenizer.save_pretrained(folder / "rl" / "final")
    PROTOCOL.save(folder / "rl" / "final")
    for step in range(steps):
        write_step(folder / "episodes", tokenizer, step)
    write_step(folder / "eval" / "episodes", tokenizer, 0, "sft_held_out")
    write_step(folder / "eval" / "episodes", tokenizer, 6, "rl_held_out")
    (folder / "metrics.jsonl").write_text("".join(metrics_line(step + 1) for step in range(steps)))
    return folder


def all_read(ask) -> list[dict]:
    """Asks for the list of runs until each has been read; a busy machine needs more than one request."""
    for _ in range(600):
        runs = ask()["runs"]
        if all(run["message"] != "is still being read" for run in runs):
            return runs
        time.sleep(0.1)
    raise AssertionError(runs)


@contextmanager
def monitor(*arguments: str | Path):
    """The real command on a free port; gives its address."""
    command = [executable, "-P", "-m", "rl.app.cli", "monitor", *map(str, arguments), "--port", "0"]
    with Popen(command, cwd=ROOT, stdout=PIPE, stderr=STDOUT, text=True) as process:
        try:
            first = process.stdout.readline()
            assert first.startswith("monitor: http"), first + process.stdout.read()
            yield first.split()[1], process
        finally:
            process.terminate()
            process.wait(120)
