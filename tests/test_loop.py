"""`examples/loop.py` has the trainer's gradient, and runs."""

from __future__ import annotations

import copy

import pytest

from examples import loop
from rl.accumulator import MetricAccumulator
from rl.advantages import group_advantages
from rl.samples import episode_to_samples
from rollout.episodes import run_episodes
from rollout.types import Sampling, Task
from tests import test_gradient as written_out
from tests.test_gradient import EPISODES, PROTOCOL, REWARDS, model, relative_gap  # noqa: F401


@pytest.mark.parametrize("max_tokens", [1, 150, 100_000])
def test_its_gradient_is_the_formulas_and_the_trainers(model, tokenizer, tmp_path, max_tokens):  # noqa: F811
    """In float64, with engine logprobs out of IcePop's range, for micro-batches of one row, some and all."""
    policy = copy.deepcopy(model)
    engine = written_out.PolicyEngine(copy.deepcopy(model), tokenizer, EPISODES, written_out.shift)
    tasks = [Task(question, None, question) for question in EPISODES for _ in range(4)]
    episodes = run_episodes(tasks, engine, PROTOCOL, tokenizer, Sampling(max_tokens=64))
    rewards = [reward for question in EPISODES for reward in REWARDS[question]]
    advantages = group_advantages(rewards, [e.group_id for e in episodes])
    samples = [s for i, e in enumerate(episodes) for s in episode_to_samples(e, advantages[i].item(), i)]
    loop.backward(policy, samples, tokenizer.pad_token_id, max_tokens, MetricAccumulator())
    found = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    formula = written_out.formula_gradient(copy.deepcopy(model), tokenizer, EPISODES, REWARDS)
    _, trainers = written_out.trainer_gradient(model, tokenizer, tmp_path, max_tokens_per_microbatch=max_tokens)
    assert relative_gap(found, formula) < 1e-10 and relative_gap(found, trainers[0]) < 1e-10


def test_it_trains(rounds_model, monkeypatch, capsys):
    monkeypatch.setattr(loop, "QUESTIONS", 4)
    loop.main(rounds_model, 2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 0", "step 1"] and "accuracy/mean" in lines[1]
