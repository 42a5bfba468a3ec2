"""Killed with SIGKILL at its worst moments and gone on with, a stage ends as the one that nobody stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rollout.store import read_episodes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
OVERRIDES = [
    "--model.build_args={hidden: 32, layers: 2, heads: 2, context: 256}",
    "--data.traces.count=40", "--data.questions.count=40",
    "--sft.max_steps=-1", "--sft.num_train_epochs=0.3",  # the last step is inside of an epoch
    "--sft.warmup_steps=0", "--sft.learning_rate=0.01",  # a few steps, and yet rounds that RL takes
    "--sft.save_steps=3", "--sft.logging_steps=2", "--sft.per_device_train_batch_size=4", "--sft.report_to=none",
    "--rl.max_steps=3", "--rl.save_steps=1", "--rl.logging_steps=1", "--rl.per_device_train_batch_size=8",
    "--rl.num_generations=4", "--rl.max_completion_length=8", "--rl.seeded_rollouts=true", "--rl.report_to=none",
    "--rollout.engine=transformers", "--rollout.settings={}", "--rewards=[{fn: 'rewards.py:characters'}]",
]  # fmt: skip
REWARD = "def characters(completions, **columns):\n    return [float(len(str(c)) % 7) for c in completions]\n"
TIMES = ("time", "time/", "step_time", "train_runtime", "train_samples_per", "train_steps_per")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "rewards.py").write_text(REWARD)
    return folder


def commands(workdir, *wanted):
    """Runs (stage, name, place of the kill or other settings of `kill_points.run`) one after the other."""
    config = str(ROOT / "configs/demo.yaml")
    listed = [
        {"arguments": [stage, config, *OVERRIDES, f"--name={name}"]} | (how if isinstance(how, dict) else {"kill": how})
        for stage, name, how in wanted
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.kill_points", json.dumps(listed)],
        cwd=workdir, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1]), result.stdout + result.stderr


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(TIMES)} for row in rows]


def weights(folder):
    return load_file(folder / "final/model.safetensors")


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def sft(workdir):
    """The SFT of a run that nobody stopped, and of one that was stopped in every way: exit codes and output."""
    return commands(
        workdir,
        ("data", "whole", None),
        ("sft", "whole", None),
        ("data", "broken", None),
        ("sft", "broken", "after the first checkpoint"),
        ("sft", "broken", {"file_limit": 250_000}),  # the optimizer is larger
        ("sft", "broken", "before final"),
        ("sft", "broken", {"kill": "while final is written", "cut": "runs/broken/sft/checkpoint-15/optimizer.pt"}),
        ("sft", "broken", "before done.json"),
        ("sft", "broken", None),
    )


def test_sft_stopped_in_every_way(workdir, sft):
    codes, log = sft
    whole, broken = workdir / "runs/whole", workdir / "runs/broken"
    assert codes == [0, 0, 0, -9, 2, -9, -9, -9, 0], log[-3000:]
    assert "sawtooth: a file is larger than the limit" in log or "sawtooth: the disk is full, or a limit" in log
    assert "Traceback" not in log
    assert "removed runs/broken/sft/checkpoint-6: incomplete, the run stopped while saving it" in log
    assert "moved to damaged-checkpoint-15, resuming from checkpoint-12" in log
    assert not same(weights(whole / "sft"), load_file(whole / "base/model.safetensors"))
    assert same(weights(broken / "sft"), weights(whole / "sft"))
    assert metrics(broken) == metrics(whole)
    assert "num_tokens" in metrics(whole)[-2] and "train_loss" in metrics(whole)[-1]
    assert files(broken / "sft") - files(whole / "sft") == {"damaged-checkpoint-15"}


def test_rl_killed_four_times(workdir, sft):
    whole, again = workdir / "runs/whole", workdir / "runs/again"
    for part in ("base", "data", "sft"):
        shutil.copytree(whole / part, again / part)
    codes, log = commands(
        workdir,
        ("rl", "whole", None),
        ("rl", "again", "after the first checkpoint"),
        ("rl", "again", "before final"),
        ("rl", "again", "while final is written"),
        ("rl", "again", "before done.json"),
        ("rl", "again", None),
    )
    assert codes == [0, -9, -9, -9, -9, 0], log[-3000:]
    assert not same(weights(whole / "rl"), weights(whole / "sft"))
    assert same(weights(again / "rl"), weights(whole / "rl"))
    assert metrics(again) == [row for row in metrics(whole) if row["stage"] == "rl"]
    assert episodes(again) == episodes(whole) and len(episodes(whole)) == 3 * 8
    assert files(again / "rl") == files(whole / "rl")


def episodes(folder):
    return [row | {"seconds": None} for row in read_episodes(folder / "episodes")]


def files(folder):
    return {path.name for path in folder.iterdir()}
