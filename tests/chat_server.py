"""The part of vLLM's HTTP interface that the chat uses, scripted: one token at a time, and only when it is let."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from pathlib import Path
from typing import Any

from aiohttp import web

from rollout.protocol import SPECIAL_TOKENS, get_protocol
from tests.bpe_model import build_tokenizer

CONTEXT = 400  # tokens; the tokenizer gives about one for each character


def build_folder(folder: Path, protocol: str = "inftythink", **settings) -> Any:
    """What the chat reads of a model: tokenizer (of bytes, so it can write anything) and protocol.json."""
    tokenizer = build_tokenizer(folder, ["ab"], vocabulary=300)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL_TOKENS})
    tokenizer.save_pretrained(folder)
    get_protocol(protocol, **settings).save(folder)
    return tokenizer


class ScriptedVLLM:
    """Answers each request with the next of `replies`.

    `hold`: tokens after which an answer waits until `hold` is None, or until whoever asked has gone.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.replies: deque[str] = deque()
        self.hold: int | None = None
        self.asked: list[dict[str, Any]] = []
        self.served: list[str] = []
        self.running = self.dropped = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    async def _start(self) -> str:
        app = web.Application()
        app.add_routes([web.get("/v1/models", self._models), web.post("/v1/completions", self._complete)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        """As its death looks from outside."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()

    def prompts(self) -> list[str]:
        """Texts that it was asked with."""
        return [self.tokenizer.decode(body["prompt"]) for body in self.asked]

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "max_model_len": CONTEXT}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        text = self.replies.popleft()
        self.served.append(text)
        ids = [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]
        finish = "stop" if len(ids) <= body["max_tokens"] else "length"
        ids = ids[: body["max_tokens"]]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.running += 1
        try:
            for count, token in enumerate(ids):
                while self.hold is not None and count >= self.hold:
                    await asyncio.sleep(0.01)
                    if request.transport is None or request.transport.is_closing():
                        raise ConnectionResetError
                last = count == len(ids) - 1
                choice = {"index": 0, "text": "", "token_ids": [token], "finish_reason": finish if last else None}
                await response.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
            await response.write(b"data: [DONE]\n\n")
        except ConnectionResetError:
            self.dropped += 1
        finally:
            self.running -= 1
        return response
