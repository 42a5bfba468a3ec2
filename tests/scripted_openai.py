"""A scripted OpenAI-compatible server over real HTTP, for what a real one does not do on demand."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from aiohttp import web


class ScriptedOpenAI:
    """Chat completions. A reply is a text, or a dict that is laid over the whole answer.

    Args:
        reply: f(body of a request) -> reply.
        seconds: most that an answer takes; how long each one takes is random.

    The first answers wait until `together` requests are under way.
    """

    def __init__(self, reply=lambda body: "x = 3 is known.", port=0, seconds=0.0):
        self.reply, self.seconds = reply, seconds
        self.faults = deque()  # of the next requests: a status, or "closed"
        self.requests: list[tuple[Mapping[str, str], dict[str, Any]]] = []  # (headers, body), faulty ones as well
        self.under_way = self.most_under_way = self.together = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(port), self._loop).result()
        self.url = f"http://127.0.0.1:{self.port}/v1"

    async def _start(self, port):
        app = web.Application(client_max_size=2**26)
        app.add_routes([web.post("/v1/chat/completions", self.complete)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True)
        await site.start()
        return site._server.sockets[0].getsockname()[1]

    def stop(self):
        """As kill -9 looks from outside: connections end, the port is closed."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()

    @property
    def seeds(self):
        return [body["seed"] for _, body in self.requests]

    async def complete(self, request):
        body = await request.json()
        self.requests.append((request.headers, body))
        fault = self.faults.popleft() if self.faults else None
        if fault == "closed":
            request.transport.close()
            return web.Response()
        if fault is not None:
            return self._error(fault)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            while self.most_under_way < self.together:
                await asyncio.sleep(0.01)
            await asyncio.sleep(random.uniform(0, self.seconds))
            reply = self.reply(body)
        finally:
            self.under_way -= 1
        if isinstance(reply, int | web.Response):
            return self._error(reply) if isinstance(reply, int) else reply
        return web.json_response(answer(reply) if isinstance(reply, str) else answer("") | reply)

    @staticmethod
    def _error(status):
        headers = {"Retry-After": "0.1"} if status == 429 else {}
        return web.json_response({"error": {"message": f"scripted {status}"}}, status=status, headers=headers)


def answer(text, finish_reason="stop"):
    """A chat completion with its usage."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
