"""Which groups are trained on: failed ones never, and with dynamic sampling none that teaches nothing."""

from __future__ import annotations

import errno
import math

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from rewards.types import Reward
from rl.app import cli
from rl.config import EpisodeGRPOConfig
from rl.dynamic_sampling import dropped_groups
from rl.trainer import EpisodeGRPOTrainer
from rollout.errors import NoServerError
from rollout.protocol import get_protocol
from rollout.store import read_episodes
from rollout.types import Completion, Episode, StopReason
from sft.faults import NotFiniteError

RIGHT, WRONG, MIXED = "a=1 b+2 ?", "c=5 d*3 ?", "e=2 f+6 ?"


class AnswersEngine:
    """RIGHT is always answered rightly, WRONG never, all else every second time; `fails` breaks one request."""

    def __init__(self, tokenizer, fails=None):
        self.tokenizer, self.fails, self.count, self.waiting, self.asked = tokenizer, fails, 0, [], []

    def submit(self, request_id, prompt_ids, sampling):
        self.waiting.append((request_id, self.tokenizer.decode(prompt_ids)))

    def poll(self):
        request_id, prompt = self.waiting.pop(0)
        self.asked.append(prompt)
        self.count += 1
        if self.count == self.fails:
            return [Completion(request_id, [], None, "error", "the server is gone")]
        right = RIGHT in prompt or (WRONG not in prompt and self.count % 2)
        text = f"<think>\nx\n</think>\\boxed{{{3 if right else 4}}}"
        ids = [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]
        return [Completion(request_id, ids, [-6.0] * len(ids), "stop")]


def answer(completions, **_):
    return [float("{3}" in text) for text in completions]


ANSWER = Reward(answer, "answer", verifier=True)


def train(tiny_model, tokenizer, tmp_path, questions, engine, policy=None, rewards=ANSWER, **settings):
    policy = policy or AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    args = EpisodeGRPOConfig(
        output_dir=str(tmp_path / "out"), per_device_train_batch_size=8, num_generations=4, bf16=False, use_cpu=True,
        report_to="none", gradient_checkpointing=False, disable_tqdm=True, shuffle_dataset=False, logging_steps=1,
        **({"max_steps": 1, "save_strategy": "no"} | settings),
    )  # fmt: skip
    trainer = EpisodeGRPOTrainer(
        policy, rewards, args, Dataset.from_list([{"prompt": q, "answer": "3"} for q in questions]),
        processing_class=tokenizer, engine=engine, episodes_dir=tmp_path / "episodes",
        protocol=get_protocol("inftythink", segment_tokens=8, summary_tokens=4, max_rounds=3),
    )  # fmt: skip
    trainer.train()
    return trainer


def trained(trainer):
    return sorted(s.group_id for slot in trainer._buffered_inputs for m in slot for s in m.samples if not m.masked)


def test_dropped_groups():
    def episode(group, reason=StopReason.ANSWERED):
        return Episode("q", None, group, [], reason)

    episodes = [episode(0), episode(0), episode(1), episode(1), episode(2), episode(2, StopReason.FAILED), episode(3)]
    correct = [1.0, 1.0, 0.0, 0.0, 1.0, None, None]
    assert dropped_groups(episodes, correct) == {0: "all_right", 1: "all_wrong", 2: "failed"}
    assert dropped_groups(episodes, None) == {2: "failed"}


def test_groups_that_teach_nothing_are_replaced(tiny_model, tokenizer, tmp_path):
    questions = [RIGHT, WRONG, MIXED, "g=7 h-4 ?", "i=1 j+1 ?"]
    engine = AnswersEngine(tokenizer)
    trainer = train(tiny_model, tokenizer, tmp_path, questions, engine, dynamic_sampling=True)
    log = trainer.state.log_history[0]
    assert (log["group/dropped_all_right"], log["group/dropped_all_wrong"]) == (1, 1)
    assert log["group/refilled"] == 2 and trained(trainer) == [2] * 4 + [3] * 4
    assert log["accuracy/mean"] == 0.5  # over all that was rolled out
    rows = read_episodes(tmp_path / "episodes")
    assert [row["advantage"] for row in rows[:8]] == [0.0] * 8 and all(row["advantage"] for row in rows[8:])
    assert len({row["question"] for row in rows}) == 4


def test_refills_are_bounded_and_a_batch_that_teaches_nothing_changes_nothing(tiny_model, tokenizer, tmp_path):
    questions = [RIGHT, WRONG, *(f"{WRONG} {i}" for i in range(20))]
    engine = AnswersEngine(tokenizer)
    before = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    trainer = train(tiny_model, tokenizer, tmp_path, questions, engine, dynamic_sampling=True, max_refills=2)
    assert trainer.state.log_history[0]["group/refilled"] == 4 and engine.count == 24
    assert trained(trainer) == []
    for ours, theirs in zip(trainer.model.parameters(), before.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_dynamic_sampling_needs_accuracy(tiny_model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="needs the `answer` reward"):
        train(
            tiny_model, tokenizer, tmp_path, [RIGHT, WRONG], AnswersEngine(tokenizer), dynamic_sampling=True,
            rewards=lambda completions, **_: [0.0] * len(completions),
        )  # fmt: skip


def test_a_group_with_a_failed_episode_is_left_out_whole(tiny_model, tokenizer, tmp_path):
    trainer = train(tiny_model, tokenizer, tmp_path, [MIXED, "g=7 h-4 ?"], AnswersEngine(tokenizer, fails=3))
    assert trainer.state.log_history[0]["group/dropped_failed"] == 1
    assert trained(trainer) == [1] * 4
    rows = read_episodes(tmp_path / "episodes")
    assert [row["stop_reason"] for row in rows].count("failed") == 1
    assert [row["advantage"] for row in rows[:4]] == [0.0] * 4


class DyingEngine(AnswersEngine):
    def poll(self):
        if self.count >= 16:
            raise NoServerError("no rollout server available for 1 s")
        return super().poll()


def test_without_servers_a_checkpoint_is_saved_before_the_run_stops(tiny_model, tokenizer, tmp_path):
    with pytest.raises(NoServerError):
        train(tiny_model, tokenizer, tmp_path, [MIXED, "g=7 h-4 ?"] * 3, DyingEngine(tokenizer), max_steps=5)
    assert (tmp_path / "out/checkpoint-2/trainer_state.json").exists()


def test_a_loss_that_is_no_number_stops_before_it_is_saved(tiny_model, tokenizer, tmp_path):
    policy = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    policy.lm_head.weight.data[0, 0] = math.nan
    with pytest.raises(NotFiniteError, match="of step 1 is nan"):
        train(
            tiny_model, tokenizer, tmp_path, [MIXED, "g=7 h-4 ?"], AnswersEngine(tokenizer), policy, save_steps=1,
            save_strategy="steps", vllm_importance_sampling_correction=False,
        )  # fmt: skip
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_a_full_disk_is_one_line(monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/demo/rl/checkpoint-10")

    monkeypatch.setattr(cli, "_run", full)
    assert cli.main(["rl", "configs/demo.yaml"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("sawtooth: the disk is full (runs/demo/rl/checkpoint-10; ") and line.count("\n") == 1
    assert line.endswith(" MiB free there); free some space and run the same command again\n")
