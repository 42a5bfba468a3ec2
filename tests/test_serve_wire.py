"""Bytes that are no request, or half of one: they are answered or hung up on, and nobody else waits."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack, closing

import httpx
import pytest
from pydantic import ValidationError

from rl.serving.connection import ConnectionLimits
from rl.serving.schema import ChatRequest
from tests.scripted_backend import HOLD, endpoint, wait_until
from tests.test_serve_strangers import ASK, CHAT, ask, connect, is_closed, request

HEAD, BODY = request()
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
UPGRADE += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
BIG = HEAD.replace(b"Content-Length: ", b"Content-Length: 9999999")


def answers(client):
    """All that comes until the other side hangs up."""
    said = b""
    while part := client.recv(1 << 16):
        said += part
    return said


@pytest.mark.slow
@pytest.mark.parametrize("rest", [HEAD + BODY[:5], HEAD, HEALTH[:30]])
def test_half_a_request_behind_a_whole_one_has_its_time_too(tokenizer, rest):
    connection = ConnectionLimits(headers=3.0, body=3.0)
    with endpoint(tokenizer, connection=connection) as (url, _, _), closing(connect(url)) as client:
        client.sendall(HEAD + BODY + rest)
        assert answers(client).count(b"HTTP/1.1 200") == 1


def half_body(client):
    client.sendall(HEAD + BODY[:5])


def idle_after_an_answer(client):
    client.sendall(HEALTH)
    said = b""
    while b"ready" not in said:
        said += client.recv(1 << 16)


@pytest.mark.parametrize("occupy", [half_body, idle_after_an_answer])
def test_connections_that_ask_nothing_make_room(tokenizer, occupy):
    with endpoint(tokenizer, connection=ConnectionLimits(connections=10)) as (url, _, _), ExitStack() as stack:
        clients = [stack.enter_context(closing(connect(url))) for _ in range(10)]
        for client in clients:
            occupy(client)
        assert ask(url).status_code == 200
        wait_until(lambda: is_closed(clients[0]))


def test_an_upgrade_is_not_made_and_leaves_nothing(tokenizer):
    connection = ConnectionLimits(headers=600, connections=5)
    with endpoint(tokenizer, connection=connection) as (url, _, _), ExitStack() as stack:
        for _ in range(10):
            with closing(connect(url)) as client:
                client.sendall(UPGRADE)
                assert b"200 OK" in client.recv(100)
        clients = [stack.enter_context(closing(connect(url))) for _ in range(10)]
        wait_until(lambda: sum(not is_closed(client) for client in clients) <= 5)


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([CHUNKED + b"\r\nzz\r\n"], 400),
        ([CHUNKED + b"Authorization: Bearer wrong\r\n\r\nzz\r\n"], 400),
        ([CHUNKED + b"Authorization: Bearer wrong\r\n\r\n", b"zz\r\n"], 401),
        ([BIG, b"x", HEALTH], 413),
        ([HEAD.replace(b": application", b": \0application")], 400),
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)], 400),
        ([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"], 400),
        ([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"], 400),
        ([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"], 400),
        ([HEAD[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HEALTH], 400),
    ],
)
def test_what_is_no_request_gets_one_answer_and_no_traceback(tokenizer, caplog, parts, status):
    key = {"Authorization": "Bearer secret"}
    connection = ConnectionLimits(headers=3.0, body=3.0)
    with endpoint(tokenizer, api_key="secret", connection=connection) as (url, _, _), closing(connect(url)) as client:
        logging.getLogger("uvicorn.error").addHandler(caplog.handler)
        first, *later = parts
        client.sendall(first.replace(b"Host: x\r\n", b"Host: x\r\nAuthorization: Bearer secret\r\n"))
        said = client.recv(1 << 16)
        for part in later:
            client.sendall(part)
        said += answers(client)
        assert said.startswith(b"HTTP/1.1 %d" % status) and said.count(b"HTTP/1.1 ") == 1
        assert set(json.loads(said.partition(b"\r\n\r\n")[2])) == {"error"}
        assert ask(url, headers=key).status_code == 200
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert not caplog.records


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "the body is not JSON: maximum recursion depth"),
        (b'{"seed": ' + b"9" * 100_000 + b"}", "the body is not JSON: Exceeds the limit"),
        (b'{"model": "\xff"}', "the body is not JSON: 'utf-8' codec can't decode"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\\ud83d"}]}', "an unpaired surrogate"),
        (b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "parts of type text"),
        (BODY[:-1] + b', "temperature": NaN}', "temperature: Input should be a finite number"),
        (json.dumps(ASK | {"z" * 10_000: 1}).encode(), " …"),
        (json.dumps(ASK | {"model": "z" * 10_000}).encode(), " …"),
        (b"", "sent as Content-Type: application/json"),
    ],
)
def test_a_body_that_can_t_be_read_is_said_why_in_few_words(tokenizer, body, says):
    with endpoint(tokenizer) as (url, service, _):
        response = httpx.post(url + CHAT, content=body, headers={"Content-Type": "application/json"}, timeout=60)
        assert 400 <= response.status_code < 500
        assert says in response.json()["error"]["message"] and len(response.content) < 2_000
        assert service.admission.running == 0


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [0] * 1000},
        {"messages": [{"role": "user", "content": [0] * 1000}]},
        {"messages": [{"role": "user", "content": "a", **{str(i): i for i in range(1000)}}]},
        {"stop": [0] * 1000},
        {str(i): i for i in range(1000)},
    ],
)
def test_a_thousand_faults_are_one(change):
    """Each is an object; half a million, as fit into a body, stood in everybody's way for half a minute."""
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate(ASK | change)
    assert caught.value.error_count() <= 2  # of a union: one for each branch


def test_whom_the_queue_has_no_room_for_is_told_before_the_work(tokenizer):
    with ExitStack() as stack:
        running = endpoint(tokenizer, [f"<think>{HOLD}"], concurrency=1, queue=0)
        url, service, backend = stack.enter_context(running)
        client = stack.enter_context(closing(connect(url)))
        client.sendall(HEAD + BODY)
        wait_until(lambda: backend.held)
        too_long = ASK | {"messages": [{"role": "user", "content": "7" * 10_000}]}
        assert httpx.post(url + CHAT, json=too_long, timeout=60).status_code == 429
        backend.go_on()
        wait_until(lambda: service.admission.running == 0)
        assert httpx.post(url + CHAT, json=too_long, timeout=60).status_code == 400
        assert service.admission.running == 0


def test_a_page_of_another_site_may_not_ask_who_asks_for_no_key(tokenizer):
    """Its browser reaches this machine's own addresses, and a name that points here makes it the same site."""
    page = {"Origin": "http://site.example:8000", "Host": "site.example:8000"}
    with endpoint(tokenizer) as (url, _, _):
        refused = ask(url, headers=page)
        assert refused.status_code == 403 and "--allowed-origins" in refused.json()["error"]["message"]
    for origins in (["*"], [page["Origin"]]):
        with endpoint(tokenizer, origins=origins) as (url, _, _):
            assert ask(url, headers=page).status_code == 200
    with endpoint(tokenizer, api_key="secret") as (url, _, _):
        assert ask(url, headers=page | {"Authorization": "Bearer secret"}).status_code == 200
