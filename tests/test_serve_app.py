"""The endpoint over HTTP with a scripted engine: answers, limits, errors, and what happens when a client leaves."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from openai import OpenAI

from rl.serving.errors import ApiError
from rollout.protocol import get_protocol
from rollout.types import Sampling
from tests.scripted_backend import ANSWER, FAULT, HOLD, SUMMARY, endpoint, wait_until

ASK = {"model": "m", "messages": [{"role": "user", "content": "k=3 ?"}]}
CHAT = "/v1/chat/completions"


def client(url, key="none"):
    return OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=60)


def post(url, body=ASK, **options):
    return httpx.post(
        url + CHAT, timeout=60, **({"content": body} if isinstance(body, bytes) else {"json": body}), **options
    )


def error_of(response):
    assert set(response.json()) == {"error"} and set(response.json()["error"]) == {"message", "type", "param", "code"}
    return response.json()["error"]


@pytest.fixture(scope="module")
def plain(tokenizer):
    with endpoint(tokenizer, body=20_000, choices=4, rounds=3, tokens=500) as running:
        yield running


def test_whole_and_streamed_answers_say_the_same(plain):
    api = client(plain[0])
    whole = api.chat.completions.create(**ASK, n=2, seed=1, stop=[" STOP"])
    for choice in whole.choices:
        assert choice.message.content == "\nthe answer is 42,"
        assert choice.message.reasoning_content == "first\n\n<summary>so far</summary>\n\nsecond"
        assert choice.finish_reason == "stop"
        assert choice.sawtooth == {"rounds": 2, "stop_reason": "answered", "error": None}
    usage = {"include_usage": True}
    chunks = list(api.chat.completions.create(**ASK, n=2, seed=1, stop=" STOP", stream=True, stream_options=usage))
    for index in (0, 1):
        mine = [chunk.choices[0] for chunk in chunks[:-1] if chunk.choices[0].index == index]
        assert "".join(c.delta.content or "" for c in mine) == "\nthe answer is 42,"
        thinking = "".join(getattr(c.delta, "reasoning_content", None) or "" for c in mine)
        assert thinking == "first\n\n<summary>so far</summary>\n\nsecond"
        assert [c.finish_reason for c in mine if c.finish_reason] == ["stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage


def test_usage_is_of_all_rounds_and_choices(plain, tokenizer):
    url, _, backend = plain
    before = len(backend.asked)
    usage = client(url).chat.completions.create(**ASK, n=2, seed=2).usage
    asked = [prompt for prompt, _ in backend.asked[before:]]
    assert len(asked) == 4 and usage.prompt_tokens == sum(map(len, asked))
    written = [len(tokenizer.encode(text, add_special_tokens=False)) + 1 for text in (SUMMARY, ANSWER)]
    assert usage.completion_tokens == 2 * sum(written)
    answer = len(tokenizer.encode(ANSWER.partition("</think>")[2], add_special_tokens=False)) + 1
    assert usage.completion_tokens_details.reasoning_tokens == 2 * (sum(written) - answer)


def test_sampling_comes_from_the_request_else_from_the_model(plain):
    url, _, backend = plain
    client(url).chat.completions.create(**ASK, seed=3, top_p=0.5, extra_body={"top_k": 5, "min_p": 0.1})
    sampling = backend.asked[-1][1]
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.7, 0.5, 5, 0.1)
    client(url).chat.completions.create(**ASK, seed=3, temperature=0.0)
    assert backend.asked[-1][1].temperature == 0.0
    assert backend.asked[-1][1].seed != backend.asked[-2][1].seed  # a round has its own


def test_rounds_and_tokens_are_bounded(plain):
    url, _, _ = plain
    last = client(url).chat.completions.create(**ASK, seed=4, extra_body={"max_rounds": 1}).choices[0]
    assert (last.finish_reason, last.message.content, last.sawtooth["stop_reason"]) == ("length", "", "max_rounds")
    for field in ("max_tokens", "max_completion_tokens"):
        post(url, ASK | {field: 500, "seed": 5})
        assert plain[2].asked[-2][1].max_tokens == 192 and plain[2].asked[-1][1].max_tokens == 192
        post(url, ASK | {field: 50, "seed": 5})
        assert plain[2].asked[-1][1].max_tokens < 50
    for field, value, limit in (("max_rounds", 4, 3), ("max_tokens", 501, 500), ("n", 5, 4)):
        error = error_of(post(url, ASK | {field: value}))
        assert (error["param"], error["code"]) == (field, "above_limit") and f"allows at most {limit}" in error[
            "message"
        ]


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "other"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            400,
            "messages.0.content",
        ),
        ({"messages": [{"role": "user", "content": "7" * 300}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages"),
        ({"temperature": 2.5}, 400, "temperature"),
        ({"seed": 10**30}, 400, "seed"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, 400, "max_tokens"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format.type"),
        ({"chat_template_kwargs": {"a": 1}}, 400, "chat_template_kwargs"),
        ({"best_of": 3}, 400, "best_of"),
        ({"\ud800": 3}, 400, None),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(plain, change, status, param):
    response = post(plain[0], json.dumps(ASK | change).encode(), headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text
    assert param is None or error_of(response)["param"] == param
    if param in ("tools", "best_of", "logprobs"):
        assert error_of(response)["message"] == f"{param} is not supported by this server"


def test_what_asks_for_nothing_is_taken(plain):
    neutral = {
        "user": "me", "metadata": {"a": [1]}, "tools": [], "logprobs": False, "presence_penalty": 0, "stop": None,
        "frequency_penalty": 0.0, "response_format": {"type": "text"}, "stream_options": None, "tool_choice": "none",
    }  # fmt: skip
    first = post(plain[0], ASK | neutral)
    assert first.status_code == 200
    answer = client(plain[0]).chat.completions.create(**ASK).choices[0].message
    parts = [{"type": "text", "text": "k=3"}, {"type": "text", "text": "?"}]
    turns = [
        {"role": "developer", "content": "do"},
        *ASK["messages"],
        answer.model_dump(),
        {"role": "user", "content": parts},
    ]
    assert post(plain[0], ASK | {"messages": turns}).status_code == 200
    prompt = plain[2].tokenizer.decode(plain[2].asked[-2][0])
    assert "system\ndo" in prompt and "k=3\n?" in prompt and "the answer is 42" in prompt and "first" not in prompt


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b"\xff\xfe", 400), (b"[" * 15_000, 400), (b"1" * 5000, 400), (b"null", 400),
        (json.dumps(ASK | {"temperature": float("nan")}).encode(), 400),
        (json.dumps(ASK | {"top_k": "1e999"}).encode(), 400),
        (json.dumps(ASK).encode().replace(b'"m"', b"1e999"), 400),
        (b'{"model": "m", "temperature": ' + b"9" * 4000 + b"}", 400),
        (json.dumps(ASK | {"metadata": {"a": "x" * 20_000}}).encode(), 413),
    ],
)  # fmt: skip
def test_a_body_without_sense_is_a_clear_error(plain, body, status):
    response = post(plain[0], body, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    assert error_of(response)["type"] == "invalid_request_error"


def test_a_large_body_is_refused_without_a_length_too(plain):
    def parts():
        yield json.dumps(ASK)[:-1].encode()
        for _ in range(30):
            yield b" " * 1000

    response = httpx.post(plain[0] + CHAT, content=parts(), headers={"Content-Type": "application/json"}, timeout=60)
    assert response.status_code == 413 and "20000 bytes" in error_of(response)["message"]


def test_unknown_paths_and_methods_are_errors_in_the_same_form(plain):
    assert error_of(httpx.get(plain[0] + "/v1/nothing"))["type"] == "invalid_request_error"
    assert httpx.get(plain[0] + CHAT).status_code == 405
    (model,) = client(plain[0]).models.list().data
    assert (model.id, model.max_model_len) == ("m", 192)


def test_the_key_is_asked_for(tokenizer):
    with endpoint(tokenizer, api_key="secret é") as (url, service, _):
        for headers in ({}, {"Authorization": "Bearer secret"}, {"Authorization": "secret é".encode()}):
            response = post(url, headers=headers)
            assert response.status_code == 401 and error_of(response)["type"] == "authentication_error"
        assert httpx.get(url + "/metrics").status_code == 401
        assert httpx.get(url + "/health").status_code == 200
        assert post(url, headers={"Authorization": "Bearer secret é".encode()}).status_code == 200
        wait_until(lambda: b'sawtooth_requests_total{status="401"} 3.0' in service.metrics.text())


def test_beyond_concurrency_requests_wait_and_beyond_the_queue_they_are_refused(tokenizer):
    with endpoint(tokenizer, [f"<think>\na{HOLD}\n</think>b"], concurrency=2, queue=1) as (url, service, backend):
        assert error_of(post(url, ASK | {"n": 3}))["param"] == "n"
        with ThreadPoolExecutor(4) as pool:
            running = pool.submit(post, url, ASK | {"n": 2})
            wait_until(lambda: len(backend.held) == 2)
            waiting = pool.submit(post, url)
            wait_until(lambda: service.admission.queued == 1)
            full = post(url)
            assert (
                full.status_code == 429
                and full.headers["Retry-After"] == "1"
                and error_of(full)["code"] == "queue_full"
            )
            with pytest.raises(openai.RateLimitError):
                client(url).chat.completions.create(**ASK)
            text = httpx.get(url + "/metrics").text
            assert "sawtooth_episodes_running 2.0" in text and "sawtooth_requests_queued 1.0" in text
            backend.go_on()
            assert running.result().status_code == 200
            wait_until(lambda: backend.held)
            backend.go_on()
            assert waiting.result().status_code == 200
        wait_until(lambda: service.admission.running == 0)


def read_some(url, body, under_way):
    """A client that leaves as soon as its request is under way."""
    if body.get("stream"):
        with httpx.stream("POST", url + CHAT, json=body, timeout=60) as response:
            assert response.status_code == 200
            next(line for line in response.iter_lines() if "reasoning_content" in line)
    else:
        request = httpx.Request("POST", url + CHAT, json=body)
        with socket.create_connection((request.url.host, request.url.port)) as client:
            head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
            client.sendall(f"POST {CHAT} HTTP/1.1\r\n{head}\r\n".encode() + request.content)
            wait_until(under_way)


def test_a_client_that_leaves_ends_its_requests_in_the_engine(tokenizer):
    with endpoint(tokenizer, [f"<think>\na b c{HOLD}\n</think>b"], concurrency=3) as (url, service, backend):
        for stream in (True, False):
            read_some(url, ASK | {"n": 3, "stream": stream}, lambda: backend.open == 3)
            wait_until(lambda: backend.open == 0 and service.admission.running == 0)
        assert backend.closed_early == 6
        with ThreadPoolExecutor(1) as pool:  # and one that waits leaves the queue
            running = pool.submit(post, url, ASK | {"n": 3})
            wait_until(lambda: backend.open == 3)
            read_some(url, ASK, lambda: service.admission.queued == 1)
            wait_until(lambda: service.admission.queued == 0)
            backend.go_on()
            assert running.result().status_code == 200
        wait_until(lambda: b'sawtooth_requests_total{status="499"} 3.0' in service.metrics.text())
        assert b'sawtooth_episodes_total{stop_reason="cancelled"} 6.0' in service.metrics.text()


def test_a_failed_engine_is_a_502_and_in_mid_stream_an_error_event(tokenizer):
    with endpoint(tokenizer, [FAULT]) as (url, _, _):
        for stream in (False, True):
            response = post(url, ASK | {"stream": stream})
            assert response.status_code == 502 and "fell off the bus" in error_of(response)["message"]
    with endpoint(tokenizer, [f"<think>\na b{FAULT}"]) as (url, service, backend):
        events = post(url, ASK | {"stream": True}).text.strip().split("\n\n")
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "engine_failed"
        with pytest.raises(openai.APIError, match="fell off the bus"):
            list(client(url).chat.completions.create(**ASK, stream=True))
        # It is counted when the last byte has gone, which the client may have read before.
        wait_until(lambda: b'sawtooth_requests_total{status="502"} 2.0' in service.metrics.text())
        backend.well = False
        assert httpx.get(url + "/health").status_code == 503


def test_malformed_and_truncated_rounds_say_so(tokenizer):
    with endpoint(tokenizer, ["<think>\na\n</think>b <summary>c"]) as (url, _, _):
        (choice,) = client(url).chat.completions.create(**ASK).choices
        assert (choice.finish_reason, choice.message.content) == ("stop", "b <summary>c")
        assert choice.sawtooth["stop_reason"] == "malformed"
    with endpoint(tokenizer, [("<think>\na\n</think>12", "length")]) as (url, _, _):
        (choice,) = client(url).chat.completions.create(**ASK).choices
        assert (choice.finish_reason, choice.message.content) == ("length", "12")
        assert choice.sawtooth == {"rounds": 1, "stop_reason": "truncated", "error": None}


def test_a_request_has_its_time(tokenizer):
    with endpoint(tokenizer, [f"<think>\na{HOLD}"], seconds=0.5) as (url, service, backend):
        response = post(url)
        assert response.status_code == 504 and error_of(response)["code"] == "timeout"
        events = post(url, ASK | {"stream": True}).text.strip().split("\n\n")
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "timeout"
        wait_until(lambda: backend.open == 0 and service.admission.running == 0)


@pytest.mark.parametrize("phase", ["starting", "draining", "dead"])
def test_a_server_that_is_not_ready_says_503(tokenizer, phase):
    with endpoint(tokenizer, phase=phase) as (url, _, _):
        assert httpx.get(url + "/health").status_code == 503 and httpx.get(url + "/health").json() == {"status": phase}
        response = post(url)
        assert response.status_code == 503 and "Retry-After" in response.headers


def test_an_abort_ends_what_runs_and_what_waits(tokenizer):
    script = [f"<think>\na{HOLD}\n</think>b"]
    with endpoint(tokenizer, script, concurrency=1) as (url, service, backend), ThreadPoolExecutor(2) as pool:
        running = pool.submit(post, url)
        wait_until(lambda: backend.held)
        waiting = pool.submit(post, url)
        wait_until(lambda: service.admission.queued == 1)
        loop, _ = backend.held[0]
        loop.call_soon_threadsafe(service.abort, ApiError(503, "bye"))
        assert {running.result().status_code, waiting.result().status_code} == {503}
        wait_until(lambda: backend.open == 0 and service.admission.running == 0)


def test_other_protocols(tokenizer):
    """Vanilla without thinking; delethink's chunks are one text."""
    with endpoint(tokenizer, ["just 42"], protocol=get_protocol("vanilla")) as (url, _, _):
        (choice,) = client(url).chat.completions.create(**ASK).choices
        assert (choice.message.content, choice.message.reasoning_content) == ("just 42", "")
    chunks = [("<think>\na b", "length"), (" c", "length"), "d\n</think>42"]
    protocol = get_protocol("delethink", segment_tokens=40, carry_tokens=10, max_rounds=4)
    with endpoint(tokenizer, chunks, protocol=protocol) as (url, _, backend):
        backend.in_order = True
        (choice,) = client(url).chat.completions.create(**ASK).choices
        assert (choice.message.content, choice.message.reasoning_content) == ("42", "a b cd")
        assert choice.sawtooth["rounds"] == 3 and backend.asked[0][1].max_tokens == 40


def test_the_description_is_what_is_served(plain):
    schema = httpx.get(plain[0] + "/openapi.json").json()
    chat = schema["paths"][CHAT]["post"]
    assert set(chat["responses"]) == {"200", "400", "401", "403", "404", "413", "429", "502", "503", "504"}
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    request = schema["components"]["schemas"]["ChatRequest"]
    assert request["additionalProperties"] is False and set(request["required"]) == {"model", "messages"}


def test_sampling_is_asked_of_a_backend_as_it_is():
    from rollout.remote.client import completion_request

    body = completion_request("m", [1], Sampling(max_tokens=5, seed=7, top_k=-1, stop_ids=(3,), banned_ids=(4,)))
    assert body["top_k"] == 0 and body["stop_token_ids"] == [3] and body["logit_bias"] == {"4": -100.0}
