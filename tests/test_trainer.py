"""The trainer around the gradient: TRL's options, faults, and the seam to TRL."""

from __future__ import annotations

import copy
import inspect
import math
import re
import time

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from rewards.call import RewardError
from rewards.score import Reward
from rl.advantages import group_advantages
from rl.config import EpisodeGRPOConfig
from rl.samples import TrainingSample, collate, microbatches, packed_microbatches, real_tokens
from rl.trainer import EpisodeGRPOTrainer
from rollout.protocol import get_protocol
from rollout.store import read_episodes
from rollout.types import Completion
from tests.test_gradient import EPISODES, REWARDS, model, relative_gap, trainer_gradient  # noqa: F401

LOSSES = ["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"]


def test_advantages():
    a = group_advantages([1.0, 0.0, 0.5, 0.5, float("nan"), 2.0, 0.0], [0, 0, 1, 1, 1, 2, 3])
    root = math.sqrt(0.5)
    assert a.tolist() == pytest.approx([0.5 / root, -0.5 / root, 0, 0, 0, 0, 0])
    assert group_advantages([3.0, 1.0], ["x", "x"], scale="none").tolist() == [1.0, -1.0]
    assert group_advantages([0.1] * 3 + [0.1 + 0.2, 0.3], [0, 0, 0, 1, 1]).tolist() == [0.0] * 5
    with pytest.raises(ValueError, match="2 rewards but 1 group ids"):
        group_advantages([1.0, 2.0], [0])


def sample(prompt, completion, episode=0, index=0):
    return TrainingSample([1] * prompt, [2] * completion, [-0.5] * completion, 1.0, 0, episode, index)


def test_microbatches_keep_every_row_and_the_bound():
    samples = [sample(5, n, n) for n in (1, 30, 7, 7, 100, 2, 12)]
    batches = microbatches(samples, 60)
    assert sorted(s.episode_id for b in batches for s in b) == sorted(s.episode_id for s in samples)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(s.num_tokens for s in batch) <= 60
    assert microbatches([], 60) == []


def test_packed_microbatches_are_few_and_nearly_equal():
    samples = [sample(5, n % 57, n) for n in range(200)] + [sample(5, 500, 200)]
    batches = packed_microbatches(samples, 400)
    assert sorted(s.episode_id for b in batches for s in b) == list(range(201))
    alone, *others = batches
    assert [s.episode_id for s in alone] == [200]
    assert max(map(real_tokens, others)) <= 400 and min(map(real_tokens, others)) > 300
    assert len(others) - 1 <= sum(map(real_tokens, others)) / 400
    assert packed_microbatches([], 60) == [] and len(packed_microbatches([samples[200]], 60)) == 1


def test_collate_pads_right_and_marks_generated_tokens():
    batch = collate([sample(2, 3), sample(4, 2)], pad_token_id=0, device="cpu")
    assert batch["prompt_ids"].tolist() == [[1, 1], [1, 1]]
    assert batch["completion_ids"].tolist() == [[2, 2, 2, 0], [1, 1, 2, 2]]
    assert batch["completion_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["tool_mask"].tolist() == [[1, 1, 1, 0], [0, 0, 1, 1]]


def test_trl_reads_the_keys_that_we_write():
    """Fails when a new TRL changes the private seam that episodes stand on."""
    source = inspect.getsource(GRPOTrainer._compute_loss)
    read = set(re.findall(r'inputs(?:\[|\.get\()"(\w+)"', source))
    ours = {
        "prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask", "advantages",
        "num_items_in_batch", "old_per_token_logps", "sampling_per_token_logps", "importance_sampling_ratio",
        "ref_per_token_logps",
    }  # fmt: skip
    images = {
        "pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes", "num_tiles",
        "image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids",
    }  # fmt: skip
    assert read == ours | images


@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_loss_is_the_same_for_any_split(model, tokenizer, tmp_path, loss_type):  # noqa: F811
    # A sequence-level ratio is one number a row, so it depends on the row only.
    _, whole = trainer_gradient(model, tokenizer, tmp_path, loss_type=loss_type)
    _, split = trainer_gradient(model, tokenizer, tmp_path, loss_type=loss_type, max_tokens_per_microbatch=120)
    assert relative_gap(split[0], whole[0]) < 1e-8


def test_kl_and_entropy_terms_are_the_same_for_any_split(model, tokenizer, tmp_path):  # noqa: F811
    settings = {"entropy_coef": 0.01, "num_iterations": 2}
    _, whole = trainer_gradient(model, tokenizer, tmp_path, **settings)
    _, split = trainer_gradient(model, tokenizer, tmp_path, **settings, max_tokens_per_microbatch=120)
    assert relative_gap(split[0], whole[0]) < 1e-8


def test_a_generation_batch_for_two_optimizer_steps(model, tokenizer, tmp_path):  # noqa: F811
    """Every step's normalizer is its own tokens: the loss of each is a token mean, whatever falls into it."""
    trainer, gradients = trainer_gradient(
        model, tokenizer, tmp_path, per_device=4, steps_per_generation=2, gradient_accumulation_steps=1
    )
    assert trainer.state.global_step == 1 and gradients
    slots = trainer._buffered_inputs
    for slot in slots:
        assert sum(micro.share for micro in slot) == pytest.approx(1.0)
    episodes = [{s.episode_id for micro in slot for s in micro.samples} for slot in slots]
    assert len(episodes[0]) == len(episodes[1]) == 4 and not episodes[0] & episodes[1]


class Replay:
    """Engine that answers the n-th request with the n-th completion."""

    def __init__(self, completions):
        self.completions, self.waiting = completions, []

    def submit(self, request_id, prompt_ids, sampling):
        self.waiting.append(request_id)

    def poll(self):
        request_id = self.waiting.pop(0)
        ids = self.completions[request_id % len(self.completions)]
        return [Completion(request_id, ids, [-1.0] * len(ids), "stop")]


def test_without_a_protocol_it_is_trl(tiny_model, tokenizer, tmp_path):
    """The same completions give stock TRL's gradient."""
    prompts = ["a=1 b+2 ?", "c=5 d*3 ?"]
    texts = ["b:+2=3\n", "no", "\\boxed{3}", "b", "d:*3=5\nend", "x", "5", "d:*3=5"]
    completions = [[*tokenizer.encode(t, add_special_tokens=False), tokenizer.eos_token_id] for t in texts]
    rewards = [1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.0, 0.25]
    captured = {}

    def reward(completions, **_):
        captured.setdefault("completions", completions)
        return rewards

    def rollout(prompts, trainer):
        ids = [tokenizer.encode(p, add_special_tokens=False) for p in prompts]
        return {"prompt_ids": ids, "completion_ids": completions, "logprobs": [[-1.0] * len(c) for c in completions]}

    settings = {
        "per_device_train_batch_size": 8, "num_generations": 4, "max_steps": 1, "scale_rewards": "none",
        "max_grad_norm": 0.0, "bf16": False, "use_cpu": True, "report_to": "none", "save_strategy": "no",
        "gradient_checkpointing": False, "disable_tqdm": True, "shuffle_dataset": False, "max_completion_length": 32,
        "vllm_importance_sampling_correction": False,
    }  # fmt: skip
    dataset = Dataset.from_list([{"prompt": p} for p in prompts])
    found = []
    for cls, extra in ((GRPOTrainer, {"rollout_func": rollout}), (EpisodeGRPOTrainer, {"engine": Replay(completions)})):
        policy = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        args = GRPOConfig(output_dir=str(tmp_path), **settings)
        trainer = cls(policy, reward, args, dataset, processing_class=tokenizer, **extra)
        gradients = {}

        def keep(*_, policy=policy, gradients=gradients):
            gradients.update({n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None})

        trainer.create_optimizer()
        trainer.optimizer.register_step_pre_hook(keep)
        trainer.train()
        found.append(gradients)
    assert relative_gap(found[1], found[0]) < 1e-5
    assert captured["completions"][2] == "\\boxed{3}"


def small_run(tiny_model, tokenizer, tmp_path, reward, steps=5, **settings):
    """Real generation by the transformers engine, real updates, on the tiny model."""
    policy = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    peft_config = settings.pop("peft_config", None)
    args = GRPOConfig(
        output_dir=str(tmp_path / "out"), per_device_train_batch_size=4, num_generations=2, max_steps=steps,
        bf16=False, use_cpu=True, report_to="none", save_strategy="no", gradient_checkpointing=False,
        disable_tqdm=True, max_completion_length=12, logging_steps=1, **settings,
    )  # fmt: skip
    rows = [{"prompt": [{"role": "user", "content": q}], "answer": "3", "tag": i} for i, q in enumerate(EPISODES)]
    trainer = EpisodeGRPOTrainer(
        policy, reward, args, Dataset.from_list(rows), processing_class=tokenizer, peft_config=peft_config,
        protocol=get_protocol("inftythink", segment_tokens=8, summary_tokens=4, max_rounds=3),
        episodes_dir=tmp_path / "episodes",
    )  # fmt: skip
    trainer.train()
    return trainer


@pytest.mark.parametrize("settings", [{}, {"beta": 0.1}, {"peft_config": LoraConfig(task_type="CAUSAL_LM")}])
def test_a_real_run_with_kl_and_with_lora(tiny_model, tokenizer, tmp_path, settings):
    before = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)

    def reward(completions, tag, **_):
        return [float(len(c[0]["content"])) for c in completions]

    trainer = small_run(tiny_model, tokenizer, tmp_path, reward, steps=2, learning_rate=1e-3, **copy.copy(settings))
    log = next(entry for entry in trainer.state.log_history if "mismatch/logprob_diff/mean" in entry)
    assert log["mismatch/logprob_diff/mean"] < 1e-5
    assert log["episode/stop/truncated"] + log["episode/stop/malformed"] > 0
    assert ("kl" in log) == ("beta" in settings)
    assert len(read_episodes(tmp_path / "episodes")) == 8
    if not settings:
        changed = any(
            not torch.equal(a, b) for a, b in zip(trainer.model.parameters(), before.parameters(), strict=True)
        )
        assert changed


def test_a_reward_that_always_raises_stops_with_its_name(tiny_model, tokenizer, tmp_path):
    calls = []

    def broken(completions, **_):
        calls.append(len(completions))
        raise KeyError("level")

    with pytest.raises(RewardError, match=r"'broken' failed on every episode of 3 steps in a row: KeyError"):
        small_run(tiny_model, tokenizer, tmp_path, broken)


WAYS = ["well", "raises", "none", "nan", "too few", "a word", "infinite", "slow", "well"]


def test_a_reward_that_fails_in_every_way_is_counted_and_the_run_goes_on(tiny_model, tokenizer, tmp_path):
    """One group of two fails in each step but the first and the last; out of time, both do."""

    def moody(completions, episodes, trainer_state, log_metric, **_):
        way, values = WAYS[trainer_state.global_step], [float(len(c[0]["content"])) for c in completions]
        log_metric("moody/characters", sum(values))
        hit = [i for i, e in enumerate(episodes) if e.group_id == 0]
        if way == "slow":
            time.sleep(15)
        if way == "raises" and hit:
            raise RuntimeError("server away")
        for i in hit:
            values[i] = {"none": None, "nan": math.nan, "a word": "good", "infinite": math.inf}.get(way, values[i])
        return values[1:] if way == "too few" and hit else values

    reward = Reward(moody, "moody", time_limit=5.0)
    trainer = small_run(tiny_model, tokenizer, tmp_path, reward, steps=len(WAYS))
    logs = [e for e in trainer.state.log_history if "reward/moody/errors" in e]
    assert [e["reward/moody/errors"] for e in logs] == [0, 2, 0, 2, 2, 2, 2, 4, 0]
    assert [e["reward/unscored"] for e in logs] == [0, 2, 2, 2, 2, 2, 2, 4, 0]
    assert all(e["moody/characters"] > 0 for e in logs)
    stored = read_episodes(tmp_path / "episodes")
    assert len(stored) == 4 * len(WAYS) and sum(row["reward"] is None for row in stored) == 16
    assert all(row["advantage"] == 0 for row in stored if row["reward"] is None)


def test_too_few_values_stop_with_one_line(tiny_model, tokenizer, tmp_path):
    with pytest.raises(RewardError, match="returned 1 values for 4 episodes"):
        small_run(tiny_model, tokenizer, tmp_path, lambda **_: [1.0])


def test_truncated_episodes_can_be_left_out(tiny_model, tokenizer, tmp_path):
    trainer = small_run(
        tiny_model, tokenizer, tmp_path, lambda completions, **_: [0.0, 1.0, 0.0, 1.0], steps=1,
        mask_truncated_completions=True,
    )  # fmt: skip
    rows = read_episodes(tmp_path / "episodes")
    trained = {s.episode_id for slot in trainer._buffered_inputs for m in slot for s in m.samples if s.episode_id >= 0}
    assert trained == {r["episode"] for r in rows if r["stop_reason"] != "truncated"}


class Remembers:
    """A reward that pays for a question less each time it comes."""

    __name__ = "remembers"

    def __init__(self):
        self.seen = {}

    def __call__(self, prompts, **_):
        values = []
        for index, question in enumerate(prompts):
            self.seen[question] = self.seen.get(question, 0) + 1
            values.append(index % 2 + 1.0 / self.seen[question])
        return values

    def state_dict(self):
        return self.seen

    def load_state_dict(self, state):
        self.seen = dict(state)


def test_what_a_reward_remembers_survives_a_resume(tiny_model, tokenizer, tmp_path):
    def run(reward, resume=None):
        args = EpisodeGRPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_steps=4, save_steps=2,
            max_completion_length=4, bf16=False, use_cpu=True, report_to="none", gradient_checkpointing=False,
            disable_tqdm=True, seeded_rollouts=True,
        )  # fmt: skip
        trainer = EpisodeGRPOTrainer(
            AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), reward, args,
            Dataset.from_list([{"prompt": "a=1 b+2 ?"}, {"prompt": "c=5 d*3 ?"}]), processing_class=tokenizer,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return reward.seen

    whole = run(Remembers())
    assert sum(whole.values()) == 16
    assert run(Remembers(), str(tmp_path / "checkpoint-2")) == whole
    (tmp_path / "checkpoint-2/rewards.json").unlink()
    with pytest.raises(RewardError, match="checkpoint-2 has no state for reward 'remembers'"):
        run(Remembers(), str(tmp_path / "checkpoint-2"))
