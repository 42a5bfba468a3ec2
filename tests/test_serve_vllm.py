"""`sawtooth serve` over a real vLLM: equal to `run_episodes`, never a 500, nothing left behind."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from openai import OpenAI
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from examples.chains.task import traces
from rollout.episodes import run_episodes
from rollout.protocol import RoundProtocol
from rollout.types import Sampling, Task
from tests.conftest import build_model
from tests.quiet import foreign
from tests.scripted_backend import wait_until
from tests.serve_process import ServeProcess, all_gone

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
ENGINE = ("--dtype", "float32", "--max-num-seqs", "32")


@pytest.fixture(scope="module")
def server(rounds_model, tmp_path_factory):
    with ServeProcess(tmp_path_factory.mktemp("serve"), rounds_model, "--max-n", "4", *ENGINE) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def questions():
    return [trace["question"] for trace in traces(6, seed=11, steps=[2, 6])]


def test_the_openai_client_gets_what_run_episodes_gives(server, rounds_model, questions):
    from transformers import AutoTokenizer

    from rollout.vllm_engine import VLLMEngine

    api = OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120)
    engine = VLLMEngine(rounds_model, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(rounds_model)
    protocol, sampling = RoundProtocol.load(rounds_model), Sampling(max_tokens=192, temperature=0.8, seed=5)
    rounds = 0
    for question in questions:
        expected = run_episodes([Task(question)] * 3, engine, protocol, tokenizer, sampling)
        ask = {"model": "m", "messages": [{"role": "user", "content": question}], "n": 3, "temperature": 0.8, "seed": 5}
        whole = api.chat.completions.create(**ask)
        chunks = list(api.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
        for index, episode in enumerate(expected):
            choice = whole.choices[index]
            turns = [segment.turn for segment in episode.segments]
            thinking = "\n\n".join(
                t for s in turns for t in (s.think, s.summary and f"<summary>{s.summary}</summary>") if t
            )
            if episode.stop_reason == "answered":
                assert choice.message.content == turns[-1].conclusion
                assert choice.message.reasoning_content == thinking
            assert choice.sawtooth == {"rounds": len(turns), "stop_reason": episode.stop_reason, "error": None}
            mine = [chunk.choices[0] for chunk in chunks[:-1] if chunk.choices[0].index == index]
            assert "".join(c.delta.content or "" for c in mine) == choice.message.content
            streamed = "".join(getattr(c.delta, "reasoning_content", None) or "" for c in mine)
            assert streamed == choice.message.reasoning_content
            rounds = max(rounds, len(turns))
        assert whole.usage.completion_tokens == sum(episode.num_tokens for episode in expected)
        assert whole.usage.prompt_tokens == sum(len(s.prompt_ids) for episode in expected for s in episode.segments)
        assert chunks[-1].usage == whole.usage
    assert rounds > 1
    engine.close()


@pytest.mark.parametrize("mode", GenerationMode)
def test_no_request_brings_a_500(server, mode):
    """Requests made from the OpenAPI description: right ones, of which half name the right model, and wrong ones."""
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    asked = Counter()
    for operation in schemathesis.openapi.from_url(server.url + "/openapi.json").get_all_operations():

        @settings(
            max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
        )
        @given(operation.ok().as_strategy(generation_mode=mode))
        def ask(case):
            asked[case.path] += 1
            if (
                isinstance(case.body, dict)
                and isinstance(case.body.get("model"), str)
                and len(case.body["model"]) % 2 == 0
            ):
                case.body["model"] = "m"
            case.call_and_validate(checks=checks, timeout=120)

        with suppress(Unsatisfiable):  # a request without fields can't be wrong
            ask()
    assert asked[CHAT] >= 20


def test_vllm_itself_answers_nobody_else(server):
    """It has a key of its own, which the list of processes does not show."""
    words = server.vllm().cmdline()
    port = words[words.index("--port") + 1]
    body = {"model": words[words.index("--model") + 1], "prompt": [1], "max_tokens": 1}
    for key in ({}, {"Authorization": "Bearer none"}):
        assert httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, headers=key).status_code == 401
    key = server.vllm().environ()["VLLM_API_KEY"]
    assert len(key) > 30 and not any(key in word for p in server.engine() for word in p.cmdline())
    answer = httpx.get(f"http://127.0.0.1:{port}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=60)
    assert answer.status_code == 200


@pytest.fixture(scope="module")
def endless_model(tmp_path_factory):
    """Writes 1 or 2, for ever: the head knows two tokens, each the other's opposite."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = build_model(tmp_path_factory.mktemp("endless"), heads=1, context=1 << 16)  # vLLM: no heads of 16
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    one, two = AutoTokenizer.from_pretrained(folder).encode("12", add_special_tokens=False)
    with torch.no_grad():
        row = model.lm_head.weight[one].clone()
        model.lm_head.weight.zero_()
        model.lm_head.weight[one], model.lm_head.weight[two] = row, -row
    model.save_pretrained(folder)
    return folder


def test_dropped_clients_leave_vllm_idle_and_a_dead_vllm_ends_the_server(endless_model, tmp_path):
    with ServeProcess(tmp_path, endless_model, "--protocol", "vanilla", *ENGINE) as server:
        server.wait_ready()
        ask = {"model": "m", "messages": [{"role": "user", "content": "k=1 ?"}], "temperature": 0, "n": 3}

        def busy():
            metrics = server.vllm_metrics()
            return metrics["vllm:num_requests_running"] + metrics["vllm:num_requests_waiting"]

        with httpx.stream("POST", server.url + CHAT, json=ask | {"stream": True}, timeout=120) as response:
            lines = response.iter_lines()  # held: httpx closes the connection of an iterator that is gone
            next(line for line in lines if '"content":"1' in line or '"content":"2' in line)
            wait_until(lambda: busy() == 3)
        wait_until(lambda: busy() == 0)
        with httpx.Client(timeout=120) as client, pytest.raises(httpx.ReadTimeout):
            client.post(server.url + CHAT, json=ask, timeout=httpx.Timeout(120, read=3))
        wait_until(lambda: busy() == 0)
        assert server.vllm_metrics()["vllm:request_success_total/length"] == 0  # none of them came to its end
        wait_until(lambda: "sawtooth_episodes_running 0.0" in httpx.get(server.url + "/metrics", timeout=60).text)

        with httpx.stream("POST", server.url + CHAT, json=ask | {"stream": True}, timeout=120) as response:
            lines = (line for line in response.iter_lines() if line)
            next(lines)
            engine = server.engine()
            server.vllm().kill()
            *_, last = lines
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_failed"
        assert server.process.wait(60) == 2
        assert "sawtooth: the vLLM server has exited (exit code" in server.said and "  | (APIServer" in server.said
        assert all_gone(engine)


def test_a_signal_while_it_starts_ends_it_and_its_vllm(tiny_model, tmp_path):
    with ServeProcess(tmp_path, tiny_model, "--protocol", "vanilla", *ENGINE) as server:
        assert server.health() == 503
        engine = server.engine()
        assert server.stop() == 0 and all_gone(engine), server.said


def test_vllm_ends_with_us_when_we_are_killed(server):
    """Last: it takes the module's server, which has said nothing but its own lines."""
    assert not foreign(server.said, "serve: ")
    engine = server.engine()
    assert len(engine) >= 3  # end_with_parent.py, vLLM's server, its engine
    server.process.kill()
    server.process.wait()
    assert all_gone(engine)
