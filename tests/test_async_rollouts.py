"""Rollouts ahead of the training, over scripted servers and real HTTP."""

from __future__ import annotations

import asyncio
import time
from itertools import count

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from rl.app.run_config import parse_config
from rl.async_rollouts import Lookahead
from rl.config import EpisodeGRPOConfig
from rl.trainer import EpisodeGRPOTrainer
from rollout.errors import ConfigError
from rollout.remote.engine import ServerEngine
from rollout.store import read_episodes
from tests.scripted_server import ScriptedServer

QUESTIONS = [f"a={i} b+{j} ?" for i in range(10) for j in range(2)]
STEPS = 6


def test_lookahead_shows_batches_before_their_turn_and_skips_none():
    batches = Lookahead(iter([["a"], ["b"], ["c"], ["d"]]))
    given = [next(batches), next(batches)]  # two accumulation steps at once
    assert batches.peek(0) == ["a"] and batches.peek(2) == ["c"]
    batches.advance()
    assert batches.peek(2) == ["d"] and batches.peek(3) is None
    batches.advance()
    assert given + list(batches) == [["a"], ["b"], ["c"], ["d"]]


@pytest.fixture
def train(tiny_model, tokenizer, tmp_path, monkeypatch):
    """train(async_steps) -> (logs, stored episodes, requests of the server)."""
    number = count()
    monkeypatch.setattr("rl.weight_sync.is_probed", lambda _: False)  # a scripted server has no policy's logprobs

    def run(async_steps, server_type=ScriptedServer, **settings):
        folder, server = tmp_path / str(next(number)), server_type()
        args = EpisodeGRPOConfig(
            output_dir=str(folder), **{"per_device_train_batch_size": 8, "num_generations": 4, "max_steps": STEPS}
            | settings, async_steps=async_steps, max_completion_length=8, learning_rate=1e-3, bf16=False, use_cpu=True,
            report_to="none", save_strategy="no", gradient_checkpointing=False, disable_tqdm=True, logging_steps=1,
        )  # fmt: skip
        engine = ServerEngine([server.url], folder / "weights", model_path=tiny_model, log=lambda _: None)
        trainer = EpisodeGRPOTrainer(
            AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32),
            lambda prompts, **_: [float(i % 4 == 0) for i in range(len(prompts))], args,
            Dataset.from_list([{"prompt": q} for q in QUESTIONS]), processing_class=tokenizer, engine=engine,
            episodes_dir=folder / "episodes",
        )  # fmt: skip
        trainer.train()
        engine.close()
        server.stop()
        logs = [log for log in trainer.state.log_history if "rollout/staleness/max" in log]
        return logs, read_episodes(folder / "episodes"), server.begun

    return run


@pytest.mark.parametrize("depth", [1, 2])
def test_batches_are_as_many_steps_old_as_asked_and_come_in_the_same_order(train, depth):
    logs, episodes, begun = train(depth)
    now, in_step, begun_in_step = train(0)
    assert [log["rollout/staleness/max"] for log in logs] == [min(step, depth) for step in range(STEPS)]
    assert [log["rollout/staleness/max"] for log in now] == [0] * STEPS
    assert all(log["rollout/straddled"] == 0 for log in now)
    assert [e["question"] for e in episodes] == [e["question"] for e in in_step]
    assert len(begun) == len(begun_in_step) == STEPS * 8  # nothing rolls out that no step trains on
    assert len({weights for _, weights in begun}) == STEPS - depth  # the last `depth` weights serve no batch
    assert all(len(e["policy_steps"]) == 2 and len(e["rounds"][0]["policy_steps"]) == 2 for e in episodes)


class AnswersOverAnUpdate(ScriptedServer):
    """From the fourth batch on, which is asked for while the first is trained on, it answers with newer weights."""

    async def complete(self, request):
        early, before = len(self.begun) < 3 * 8, self.policy
        answer = await super().complete(request)
        deadline = time.monotonic() + 120
        while not early and self.policy in ("", before) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return answer


def test_episodes_that_straddle_an_update_are_counted(train):
    logs, episodes, _ = train(2, AnswersOverAnUpdate)
    straddled = [e for e in episodes if e["policy_steps"][0] < e["policy_steps"][1]]
    assert straddled and sum(log["rollout/straddled"] for log in logs) == pytest.approx(len(straddled) / 8)
    assert all(e["step"] - 2 <= e["policy_steps"][0] <= e["policy_steps"][1] <= e["step"] for e in episodes)


def test_several_optimizer_steps_of_one_batch_and_the_end_of_an_epoch(train):
    """20 questions, 4 a generation batch: an epoch is 5 batches, each for two optimizer steps."""
    settings = {"steps_per_generation": 2, "gradient_accumulation_steps": 1, "max_steps": 14}
    logs, episodes, begun = train(1, **settings)
    _, in_step, _ = train(0, **settings)
    assert [e["question"] for e in episodes] == [e["question"] for e in in_step]
    assert len(begun) == len(episodes) == 7 * 16
    stale = {log["step"] - 1: log["rollout/staleness/max"] for log in logs}
    assert stale == {0: 0, 2: 2, 4: 2, 6: 2, 8: 2, 10: 0, 12: 2}  # a new epoch's first batch can't be seen before


def test_only_servers_can_roll_out_ahead(tiny_model, tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="async_steps needs `engine: server`"):
        parse_config({"name": "x", "model": {"path": tiny_model}, "rollout": {"async_steps": 1}})
    with pytest.raises(ConfigError, match=r"rl.async_steps is set by rollout.async_steps"):
        parse_config({"name": "x", "model": {"path": tiny_model}, "rl": {"async_steps": 1}})
