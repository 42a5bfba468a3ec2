"""Start here: GRPO over episodes in one file, with the same computation as `rl/trainer.py`.

question -> episodes (rounds joined by summaries) -> rewards -> group advantages -> one row per round -> token-mean loss

    python -m examples.loop runs/demo/sft/final 20

Omitted: vLLM, several ranks, off-policy steps (clipping has no effect in the first step on a batch), KL, checkpoints,
TRL's other losses. `tests/test_loop.py` compares its gradient with the trainer's.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from examples.chains.task import questions
from rewards.load import load_rewards
from rewards.score import score_episodes
from rl.accumulator import MetricAccumulator
from rl.advantages import group_advantages
from rl.importance import Correction, importance_ratio
from rl.logprobs import next_token_logps
from rl.samples import TrainingSample, collate, episode_to_samples, microbatches
from rollout.episodes import run_episodes
from rollout.hf_engine import TransformersEngine
from rollout.metrics import episode_metrics
from rollout.protocol import RoundProtocol
from rollout.types import Sampling, Task

QUESTIONS, GROUP, MAX_TOKENS, LEARNING_RATE = 32, 8, 48, 2e-4  # as in configs/demo.yaml


def token_loss(policy: PreTrainedModel, batch: dict[str, torch.Tensor], metrics: MetricAccumulator) -> torch.Tensor:
    """Sums -A * k * ratio over the generated tokens. The ratio to the old policy is 1; only its gradient counts."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)  # [B, P + T], right-padded
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    logps, _ = next_token_logps(policy(input_ids=ids, attention_mask=mask).logits, ids)
    logps, generated = logps[:, -batch["completion_ids"].size(1) :], batch["tool_mask"]  # [B, T]
    k = importance_ratio(logps.detach(), batch["sampling_per_token_logps"], generated, Correction(), metrics)
    ratio = (logps - logps.detach()).exp()
    return -(batch["advantages"][:, None] * k * ratio * generated).sum()


def backward(
    policy: PreTrainedModel, samples: list[TrainingSample], pad: int, max_tokens: int, metrics: MetricAccumulator
) -> None:
    """Add the gradient of one optimizer step: each token of the batch counts equally, regardless of micro-batches."""
    tokens = sum(len(sample.completion_ids) for sample in samples)
    for rows in microbatches(samples, max_tokens):
        (token_loss(policy, collate(rows, pad, policy.device), metrics) / tokens).backward()


def main(path: str, steps: int) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    policy = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    protocol = RoundProtocol.load(path)
    engine = TransformersEngine(policy, tokenizer)  # VLLMEngine(path) has its own weights: sync_weights each step
    rewards = load_rewards([{"fn": "answer"}, {"fn": "iteration_decay", "combine": "multiply"}], protocol)
    optimizer, metrics = torch.optim.AdamW(policy.parameters(), lr=LEARNING_RATE), MetricAccumulator()
    rows = questions(count=steps * QUESTIONS, steps=[8, 16])
    for step in range(steps):
        asked = rows[step * QUESTIONS : (step + 1) * QUESTIONS]
        tasks = [Task(row["question"], row["answer"], group) for group, row in enumerate(asked) for _ in range(GROUP)]
        episodes = run_episodes(tasks, engine, protocol, tokenizer, Sampling(max_tokens=MAX_TOKENS))
        scores = score_episodes(episodes, rewards)
        advantages = group_advantages(scores.total, [e.group_id for e in episodes])  # one per episode
        samples = [s for i, e in enumerate(episodes) for s in episode_to_samples(e, advantages[i].item(), i)]
        backward(policy, samples, tokenizer.pad_token_id, 16384, metrics)
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found = scores.metrics() | episode_metrics(episodes, scores.correct) | metrics.flush()
        shown = ("reward/mean", "accuracy/mean", "episode/rounds/mean", "mismatch/logprob_diff/mean")
        print(f"step {step}: " + ", ".join(f"{name} {found[name]:.3g}" for name in shown), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
