"""Who writes the summaries: a function, a server, a checkpoint; in real episodes."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.chains.task import questions, summarize
from rl.evaluation.summarizer import make_steering
from rollout.episodes import run_episodes
from rollout.hf_engine import TransformersEngine
from rollout.protocol import RoundProtocol
from rollout.types import Sampling, StopReason, Task
from tests.scripted_openai import ScriptedOpenAI

SAMPLING = Sampling(24, temperature=0.0)
FUNCTION = "examples/chains/task.py:summarize"


@pytest.fixture(scope="module")
def model(rounds_model):
    tokenizer = AutoTokenizer.from_pretrained(rounds_model)
    engine = TransformersEngine(AutoModelForCausalLM.from_pretrained(rounds_model, dtype="float32"), tokenizer)
    tasks = [Task(row["question"], row["answer"]) for row in questions(12, 3, [4, 6], True)]

    def run(**steering):
        made = make_steering(summary_tokens=4, sampling=SAMPLING, **steering)
        protocol = RoundProtocol.load(rounds_model)
        return run_episodes(tasks, engine, protocol, tokenizer, SAMPLING, interventions=made), made

    run.start = lambda spec: (engine, tokenizer, spec)
    return run


def test_the_model_itself_is_nothing_to_steer(model):
    assert make_steering(summary_tokens=4, sampling=SAMPLING) is None


def test_a_function_writes_from_question_last_summary_and_thinking(model):
    episodes, steering = model(summarizer=FUNCTION)
    written = [s for e in episodes for s in e.segments if s.turn.kind == "summary"]
    assert len(written) > 6 and all(s.turn.summary == summarize("", None, s.turn.think) for s in written)
    steering.summarizer.close()


def test_the_same_checkpoint_writes_what_the_model_would(model):
    own, _ = model()
    other, _ = model(summarizer="itself", start=model.start)
    assert [[s.completion_ids for s in e.segments] for e in other] == [
        [s.completion_ids for s in e.segments] for e in own
    ]


def test_a_server_writes_and_what_it_refuses_fails_one_episode(model):
    server = ScriptedOpenAI(lambda request: " q=1 ")
    episodes, steering = model(summarizer={"url": server.url, "model": "writer"})
    assert {s.turn.summary for e in episodes for s in e.segments} == {"q=1", None}
    steering.summarizer.close()
    server.reply = lambda request: ""
    episodes, steering = model(summarizer={"url": server.url, "model": "writer", "max_draws": 2})
    failed = [e for e in episodes if e.stop_reason == StopReason.FAILED]
    assert failed and all("has no summary: the summary is empty" in e.error for e in failed)
    steering.summarizer.close()
    server.stop()


def test_mistakes():
    for to, said in [({"fm": "x"}, "did you mean"), ({}, "has no source"), ({"url": "http://x"}, "model is missing")]:
        with pytest.raises(ValueError, match=said):
            make_steering(summarizer=to, summary_tokens=4, sampling=SAMPLING)
