"""The endpoint among strangers: clients that do not read, do not finish what they say, or say too much."""

from __future__ import annotations

import argparse
import json
import socket
import time
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import httpx
import pytest

from rl.serving.cli import _api_key, add_arguments, run_command
from rl.serving.connection import MOST_HEADERS, ConnectionLimits
from tests.scripted_backend import endpoint, wait_until

ASK = {"model": "m", "messages": [{"role": "user", "content": "k=3 ?"}]}
CHAT = "/v1/chat/completions"
LONG = "<think>\n" + "7" * 20_000 + "\n</think>42"


def connect(url, receive=None):
    place = urlsplit(url)
    client = socket.socket()
    if receive:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    client.connect((place.hostname, place.port))
    client.settimeout(60)
    return client


def request(body=ASK, **headers):
    data = json.dumps(body).encode()
    lines = [f"POST {CHAT} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, *(f"{k}: {v}" for k, v in headers.items()), "", ""]).encode(), data


def is_closed(client):
    """True when the other side has hung up."""
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def ask(url, **options):
    return httpx.post(url + CHAT, json=ASK, timeout=60, **options)


def test_clients_that_never_read_do_not_keep_the_places(tokenizer):
    connection = ConnectionLimits(reading=3.0)
    with ExitStack() as stack:
        running = endpoint(tokenizer, [LONG], concurrency=2, seconds=300, connection=connection)
        url, service, backend = stack.enter_context(running)
        clients = [stack.enter_context(closing(connect(url, 4096))) for _ in range(2)]
        for client in clients:
            client.sendall(b"".join(request(ASK | {"stream": True})))
        wait_until(lambda: len(backend.asked) == 2)
        assert ask(url).status_code == 200
        wait_until(lambda: service.admission.running == 0 and backend.open == 0)


def test_a_place_is_free_when_the_episode_has_ended(tokenizer):
    """However slowly its client reads what was written."""
    with ExitStack() as stack:
        url, service, _ = stack.enter_context(
            endpoint(tokenizer, [LONG], concurrency=1, connection=ConnectionLimits(reading=300))
        )
        client = stack.enter_context(closing(connect(url, 4096)))
        client.sendall(b"".join(request(ASK | {"stream": True})))
        assert ask(url).status_code == 200
        wait_until(lambda: service.admission.running == 0)


def test_half_sent_headers_have_their_time(tokenizer):
    with endpoint(tokenizer, connection=ConnectionLimits(headers=3.0)) as (url, _, _), ExitStack() as stack:
        clients = [stack.enter_context(closing(connect(url))) for _ in range(20)]
        for client in clients[1:]:
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-A: ")
        for client in clients:
            wait_until(lambda client=client: is_closed(client))
        assert ask(url).status_code == 200


def test_dripped_headers_have_no_more_time(tokenizer):
    with endpoint(tokenizer, connection=ConnectionLimits(headers=3.0)) as (url, _, _), closing(connect(url)) as client:
        client.sendall(b"GET /health HTTP/1.1\r\n")
        until = time.monotonic() + 60
        while not is_closed(client):
            assert time.monotonic() < until
            try:
                client.sendall(b"a")
            except OSError:
                break
            time.sleep(0.05)


def test_many_half_sent_requests_make_room_for_a_whole_one(tokenizer):
    connection = ConnectionLimits(headers=600, connections=30)
    with endpoint(tokenizer, connection=connection) as (url, _, _), ExitStack() as stack:
        clients = []
        for _ in range(100):
            clients.append(stack.enter_context(closing(connect(url))))
            clients[-1].sendall(b"POST / HTTP/1.1\r\n")
        assert ask(url).status_code == 200
        wait_until(lambda: sum(not is_closed(client) for client in clients) <= 30)


def test_a_second_request_s_headers_have_their_time_too(tokenizer):
    with endpoint(tokenizer, connection=ConnectionLimits(headers=3.0)) as (url, _, _), closing(connect(url)) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in client.recv(4096)
        client.sendall(b"GET /health HTTP/1.1\r\nHost:")
        wait_until(lambda: is_closed(client))


def test_half_sent_bodies_have_their_time(tokenizer):
    with (
        endpoint(tokenizer, concurrency=1, connection=ConnectionLimits(body=3.0)) as (url, _, _),
        closing(connect(url)) as client,
    ):
        head, body = request()
        client.sendall(head + body[:5])
        wait_until(lambda: is_closed(client))
        assert ask(url).status_code == 200


@pytest.mark.parametrize("whole", [True, False])
def test_headers_have_a_size(tokenizer, whole):
    with endpoint(tokenizer, api_key="secret") as (url, _, _), closing(connect(url)) as client:
        head, body = request(**{"X-Long": "a" * (2 * MOST_HEADERS)})
        client.sendall(head + body if whole else head[:-4])
        assert (b" 431 " if whole else b" 400 ") in client.recv(100)
        assert ask(url, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_a_slow_but_honest_client_is_served(tokenizer):
    with endpoint(tokenizer) as (url, _, _), closing(connect(url)) as client:
        head, body = request()
        for part in (head[:20], head[20:], body[:10], body[10:]):
            client.sendall(part)
            time.sleep(0.2)
        assert b" 200 " in client.recv(100)


def test_a_page_of_an_allowed_site_may_ask(tokenizer):
    preflight = {"Origin": "https://site.example", "Access-Control-Request-Method": "POST"}
    with endpoint(tokenizer, api_key="secret", origins=["https://site.example"]) as (url, _, _):
        answer = httpx.options(url + CHAT, headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://site.example"
        assert httpx.options(url + CHAT, headers=preflight | {"Origin": "https://other.example"}).status_code == 400
        whole = ask(url, headers={"Origin": "https://site.example", "Authorization": "Bearer secret"})
        assert whole.status_code == 200 and "access-control-allow-origin" in whole.headers
    with endpoint(tokenizer) as (url, _, _):
        assert httpx.options(url + CHAT, headers=preflight).status_code == 405


@pytest.mark.parametrize("field", ["top_logprobs", "tools", "parallel_tool_calls", "store", "seed", "service_tier"])
def test_null_is_not_given(tokenizer, field):
    with endpoint(tokenizer) as (url, _, _):
        assert httpx.post(url + CHAT, json=ASK | {field: None}, timeout=60).status_code == 200


def test_no_top_logprobs_are_none(tokenizer):
    with endpoint(tokenizer) as (url, _, _):
        assert httpx.post(url + CHAT, json=ASK | {"logprobs": False, "top_logprobs": 0}, timeout=60).status_code == 200
        assert httpx.post(url + CHAT, json=ASK | {"top_logprobs": 5}, timeout=60).status_code == 400


def options(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["m", *map(str, arguments)])


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch, capsys):
    file = tmp_path / "key"
    monkeypatch.setenv("SAWTOOTH_API_KEY", "of the environment\n")
    assert _api_key(options()) == "of the environment"
    file.write_text("of the file\n")
    file.chmod(0o600)
    assert _api_key(options("--api-key-file", file)) == "of the file"
    assert capsys.readouterr().err == ""
    file.chmod(0o644)
    assert _api_key(options("--api-key-file", file)) == "of the file"
    assert capsys.readouterr().err == f"serve: every user of this machine can read {file}: chmod 600\n"
    monkeypatch.delenv("SAWTOOTH_API_KEY")
    assert _api_key(options()) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "can't be read"), (b"", "is empty"), (b" \n", "is empty"), (b"a\nb", "one line"),
     (b"\xff", "can't be read"), ("schlüssel".encode(), "printable ASCII"), (b"a\x1b[2J", "printable ASCII")],
)  # fmt: skip
def test_what_is_no_key_opens_no_door(tmp_path, monkeypatch, text, says):
    file = tmp_path / "key"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(ValueError, match=says):
        _api_key(options("--api-key-file", file))
    with pytest.raises(ValueError, match="not both"):
        _api_key(options("--api-key-file", file, "--api-key", ""))
    if says != "can't be read":
        monkeypatch.setenv("SAWTOOTH_API_KEY", text.decode())
        for given in ([], ["--api-key", text.decode()]):
            with pytest.raises(ValueError, match=says):
                _api_key(options(*given))


@pytest.mark.parametrize("origin", ["site.example", "https://site.example/", "https://site.example/page", ""])
def test_an_origin_that_no_browser_sends_is_refused(origin):
    with pytest.raises(ValueError, match="--allowed-origins"):
        run_command(options("--allowed-origins", origin), [])
