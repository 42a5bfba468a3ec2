"""The endpoint over a scripted engine, on a real port: for tests of what an engine does too fast, or never."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from contextlib import aclosing, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rl.serving.app import make_app
from rl.serving.connection import ConnectionLimits
from rl.serving.model import ServedModel
from rl.serving.server import http_config
from rl.serving.service import Limits, Service
from rl.serving.stream import BackendFault
from rollout.protocol import get_protocol
from rollout.types import Sampling

SUMMARY = "<think>\nfirst\n</think><summary> so far </summary>"
ANSWER = "<think>\nsecond\n</think>\nthe answer is 42, STOP and more"
HOLD = "HOLD"  # in a script: it waits here until it is told to go on
FAULT = "FAULT"  # in a script: the engine breaks


class ScriptedBackend:
    """Writes a text of its script for each request, a token at a time: the second where the prompt has a history, else
    the first; or all in order. A text ends in the end token, a (text, "length") does not."""

    max_model_len = 192

    def __init__(self, tokenizer, script=(SUMMARY, ANSWER)):
        self.tokenizer, self.script = tokenizer, list(script)
        self.asked: list[tuple[list[int], Sampling]] = []
        self.open = self.closed_early = 0
        self.well = True
        self.held: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self.in_order = False

    async def healthy(self):
        return self.well

    async def generate(self, prompt_ids, sampling):
        number = len(self.asked) if self.in_order else "<history>" in self.tokenizer.decode(prompt_ids)
        text = self.script[number]
        self.asked.append((prompt_ids, sampling))
        text, finish = text if isinstance(text, tuple) else (text, "stop")
        self.open += 1
        done = False
        try:
            for part in text.replace(HOLD, f"|{HOLD}|").replace(FAULT, f"|{FAULT}|").split("|"):
                if part == FAULT:
                    raise BackendFault("the card fell off the bus")
                if part == HOLD:
                    self.held.append((asyncio.get_running_loop(), event := asyncio.Event()))
                    await event.wait()
                    continue
                for token in self.tokenizer.encode(part, add_special_tokens=False):
                    await asyncio.sleep(0)
                    yield [token], None
            done = True
            yield ([self.tokenizer.eos_token_id] if finish == "stop" else []), finish
        finally:
            self.open -= 1
            self.closed_early += not done

    def go_on(self):
        for loop, event in self.held:
            loop.call_soon_threadsafe(event.set)
        self.held.clear()


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@contextmanager
def _serving(make):
    """`make()` is uvicorn's config, called in the event loop that serves it. Gives the URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)  # a client that does not read is soon noticed
    servers = []

    async def run():
        servers.append(uvicorn.Server(make()))
        await servers[0].serve([listener])

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    wait_until(lambda: servers and servers[0].started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        servers[0].should_exit = servers[0].force_exit = True
        thread.join(30)


@contextmanager
def endpoint(
    tokenizer,
    script=(SUMMARY, ANSWER),
    *,
    api_key=None,
    origins=(),
    connection=None,
    protocol=None,
    phase="ready",
    **limits,
):
    """A running endpoint: (its URL, service, backend)."""
    backend = ScriptedBackend(tokenizer, script)
    model = ServedModel("m", tokenizer, protocol or get_protocol("inftythink", max_rounds=4), Sampling(temperature=0.7))
    service = Service(model, backend, Limits(**limits))
    service.phase = phase
    with _serving(lambda: http_config(make_app(service, api_key, origins), connection or ConnectionLimits())) as url:
        yield url, service, backend


@contextmanager
def scripted_vllm(tokenizer, script, api_key=None):
    """What our backend uses of vLLM's server, over a scripted engine: (its URL, the engine)."""
    engine = ScriptedBackend(tokenizer, script)

    async def completions(request):
        body = await request.json()
        if api_key and request.headers.get("authorization") != f"Bearer {api_key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        if body["max_tokens"] == 13:
            return JSONResponse({"error": {"message": "13 is not allowed"}}, 400)

        async def events():
            first = {"prompt_token_ids": body["prompt"] * 10_000}  # the first event of a long prompt is long
            try:
                async with aclosing(engine.generate(body["prompt"], Sampling())) as chunks:
                    async for ids, finish in chunks:
                        choice = {"index": 0, "text": "", "token_ids": ids, "finish_reason": finish} | first
                        yield f"data: {json.dumps({'choices': [choice]})}\n\n"
                        first = {}
                yield "data: [DONE]\n\n"
            except BackendFault as fault:
                yield f"data: {json.dumps({'error': {'message': str(fault)}})}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    def models(request):
        if api_key and request.headers.get("authorization") != f"Bearer {api_key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        return JSONResponse({"data": [{"id": "engine", "max_model_len": engine.max_model_len}]})

    def app():
        routes = [
            Route("/v1/models", models),
            Route("/health", lambda _: Response(status_code=200 if engine.well else 500)),
            Route("/v1/completions", completions, methods=["POST"]),
        ]
        return uvicorn.Config(Starlette(routes=routes), log_level="warning", lifespan="off")

    with _serving(app) as url:
        yield url, engine
