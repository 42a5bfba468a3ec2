"""A server's life over a given vLLM: it starts, drains, ends; and what its backend makes of an engine's answers."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, closing

import httpx
import pytest

from rl.app.cli import main
from rl.serving.backend import VLLMBackend
from rl.serving.child import vllm_command
from rl.serving.stream import BackendFault
from rollout.types import Sampling
from tests.quiet import foreign
from tests.scripted_backend import ANSWER, FAULT, HOLD, SUMMARY, scripted_vllm, wait_until
from tests.serve_process import ROOT, ServeProcess
from tests.test_serve_strangers import connect

CHAT = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "k=1 ?"}], "stream": True}


def served(model, tmp_path, url, *arguments, **environment):
    return ServeProcess(tmp_path, model, "--protocol", "inftythink", "--url", url, *arguments, **environment)


@pytest.mark.slow
def test_after_sigterm_running_requests_end_and_new_ones_are_refused(tiny_model, tokenizer, tmp_path):
    script = [SUMMARY, f"<think>\nso{HOLD} on\n</think>\n42"]
    with scripted_vllm(tokenizer, script, api_key="k") as (url, engine), ExitStack() as stack:
        server = stack.enter_context(served(tiny_model, tmp_path, url + "/v1/", "--grace", "120", VLLM_API_KEY="k"))
        server.wait_ready()
        stranger = stack.enter_context(closing(connect(server.url)))
        stranger.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        with httpx.stream("POST", server.url + CHAT, json=ASK, timeout=120) as response:
            lines = (line for line in response.iter_lines() if line)
            wait_until(lambda: engine.held)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: server.health() == 503)
            assert httpx.get(server.url + "/health").json() == {"status": "draining"}
            refused = httpx.post(server.url + CHAT, json=ASK, timeout=60)
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "server_draining"
            engine.go_on()
            *_, last = lines
        assert last == "data: [DONE]"
        assert server.process.wait(60) == 0, server.said
        assert "serve: shutting down: 1 episodes running" in server.said
        assert not foreign(server.said, "serve: ")


@pytest.mark.slow
def test_after_the_grace_running_requests_are_ended(tiny_model, tokenizer, tmp_path):
    with scripted_vllm(tokenizer, [f"<think>\na b{HOLD}"]) as (url, engine), ExitStack() as stack:
        server = stack.enter_context(served(tiny_model, tmp_path, url, "--grace", "0.2")).wait_ready()
        with httpx.stream("POST", server.url + CHAT, json=ASK, timeout=120) as response:
            wait_until(lambda: engine.held)
            server.process.send_signal(signal.SIGINT)
            *_, last = (line for line in response.iter_lines() if line)
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "server_draining"
        assert server.process.wait(60) == 0, server.said
        wait_until(lambda: engine.open == 0)


def test_the_backend_says_what_is_wrong(tokenizer):
    async def ask(url, key=None, **sampling):
        backend = VLLMBackend(url, key)
        try:
            await backend.connect()
            return [chunk async for chunk in backend.generate([5, 6], Sampling(**sampling))]
        finally:
            await backend.close()

    def fault(*arguments, **sampling):
        with pytest.raises(BackendFault) as caught:
            asyncio.run(ask(*arguments, **sampling))
        return str(caught.value)

    with scripted_vllm(tokenizer, [ANSWER], api_key="k") as (url, _):
        ids = [token for new, _ in asyncio.run(ask(url, "k")) for token in new]
        assert tokenizer.decode(ids[:-1]) == ANSWER and ids[-1] == tokenizer.eos_token_id
        assert "set VLLM_API_KEY" in fault(url)
        assert fault(url, "k", max_tokens=13) == "vLLM returned 400: 13 is not allowed"
        assert "does not respond like a vLLM server" in fault(url + "/nothing", "k")
    assert "no server responds" in fault(url, "k")
    with scripted_vllm(tokenizer, [f"<think>{FAULT}"]) as (url, _):
        assert fault(url) == "vLLM: the card fell off the bus"


def test_vllms_own_arguments_win_over_ours():
    command = vllm_command("m", 1, ["--kv-cache-memory-bytes=5", "--max_num_seqs", "9"])
    assert command.count("--kv-cache-memory-bytes") == 0 and command[-3:] == [
        "--kv-cache-memory-bytes=5",
        "--max_num_seqs",
        "9",
    ]


def test_mistakes_are_one_line(tiny_model, capsys):
    nobody = ("--url", "http://127.0.0.1:1", "--port", "0")
    for arguments, line in (
        (nobody, r"has no protocol.json: give --protocol vanilla"),
        (("--max-n", "0"), r"--max-n is 0; it must be at least 1"),
        ((*nobody, "--dtype", "float32"), r"--dtype is not an option"),
        (("--port", "99999"), r"can't listen on 127.0.0.1, port 99999"),
        (("--protocol", "vanilla", *nobody), r"no server responds at http://127.0.0.1:1"),
    ):
        assert main(["serve", tiny_model, *arguments]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sawtooth:")]
        assert len(lines) == 1 and re.search(line, lines[0]), lines


def test_help_answers_at_once():
    code = "import sys, rl.app.cli; print([m for m in ('torch', 'vllm', 'fastapi', 'aiohttp') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"


def test_a_burst_of_events_lets_others_run():
    """Else a client that has left is noticed only after the burst, with a warning for each write to its socket."""
    from rl.serving.reply import _event

    sent, seen = [], []

    async def send(message):
        sent.append(message)

    async def watch():
        while len(sent) < 3:
            seen.append(len(sent))
            await asyncio.sleep(0)

    async def burst():
        watching = asyncio.create_task(watch())
        for _ in range(3):
            await _event(send, b"{}")
        await watching

    asyncio.run(burst())
    assert {1, 2} <= set(seen)
