"""The pass of the starting model that O1-Pruner's reward compares with."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import GRPOConfig

from rewards.load import load_rewards
from rl import baseline
from rl.trainer import EpisodeGRPOTrainer
from rollout.protocol import get_protocol
from rollout.store import read_episodes
from tests.test_gradient import EPISODES

PROTOCOL = get_protocol("inftythink", segment_tokens=8, summary_tokens=4, max_rounds=3)


def make(tiny_model, tokenizer, tmp_path, rewards, **columns):
    args = GRPOConfig(
        output_dir=str(tmp_path / "out"), per_device_train_batch_size=4, num_generations=2, max_steps=2, bf16=False,
        use_cpu=True, report_to="none", save_strategy="no", gradient_checkpointing=False, disable_tqdm=True,
        max_completion_length=12, logging_steps=1,
    )  # fmt: skip
    rows = [{"prompt": q, "answer": "3", **columns} for q in EPISODES]
    return EpisodeGRPOTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32),
        load_rewards(rewards, PROTOCOL), args, Dataset.from_list(rows), processing_class=tokenizer, protocol=PROTOCOL,
        episodes_dir=tmp_path / "episodes",
    )  # fmt: skip


REWARDS = [{"fn": "answer", "weight": 0.0}, {"fn": "o1_pruner", "samples": 3}]


def test_it_is_rolled_out_once_and_survives_a_broken_start(tiny_model, tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "reference.jsonl"
    monkeypatch.setattr(baseline, "_QUESTIONS", 1)
    trainer = make(tiny_model, tokenizer, tmp_path, REWARDS)
    trainer.add_baseline(path)
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == len(EPISODES) and all(len(json.loads(line)["ref_lengths"]) == 3 for line in lines)
    path.write_text(lines[0] + lines[1][:20])  # killed while it wrote
    again = make(tiny_model, tokenizer, tmp_path, REWARDS)
    again.add_baseline(path)
    kept = path.read_text().splitlines(keepends=True)
    assert kept[0] == lines[0] and len(kept) == len(EPISODES)
    rows = {row["prompt"]: row for row in again.train_dataset}
    for line in map(json.loads, kept):
        row = rows[json.loads(line["key"])[0]]
        assert row["ref_lengths"] == line["ref_lengths"] and row["ref_accuracy"] == line["ref_accuracy"]
    before = path.read_text()
    third = make(tiny_model, tokenizer, tmp_path, REWARDS)
    third.add_baseline(path)
    assert path.read_text() == before
    third.train()
    log = next(e for e in third.state.log_history if "reward/o1_pruner/errors" in e)
    assert log["reward/o1_pruner/errors"] == 0
    stored = read_episodes(tmp_path / "episodes")
    assert len(stored) == 8 and all(row["reward"] is not None for row in stored)


def test_columns_of_the_data_are_kept_and_other_rewards_need_no_pass(tiny_model, tokenizer, tmp_path):
    given = {"ref_lengths": [10, 20], "ref_accuracy": 0.5}
    with_columns = make(tiny_model, tokenizer, tmp_path, REWARDS, **given)
    without_need = make(tiny_model, tokenizer, tmp_path, [{"fn": "answer"}])
    for trainer in (with_columns, without_need):
        trainer.add_baseline(tmp_path / "reference.jsonl")
    assert not (tmp_path / "reference.jsonl").exists()
    assert with_columns.train_dataset[0]["ref_lengths"] == [10, 20]
    with pytest.raises(ValueError, match=r"o1_pruner: samples is 0"):
        load_rewards([{"fn": "o1_pruner", "samples": 0}], PROTOCOL)
