"""A scripted rollout server over real HTTP, for what a real one does not do on demand."""

from __future__ import annotations

import asyncio
import threading

from aiohttp import web


class ScriptedServer:
    """Speaks the part of vLLM's protocol that the engine uses. `mode` says how it fails; it echoes the prompt.

    Args:
        seconds: how long each answer takes.
    """

    def __init__(self, port=0, seconds=0.02):
        self.mode, self.policy, self.served, self.served_with, self.seconds = "ok", "", 0, set(), seconds
        self.paused = False
        self.begun = []  # (prompt, its weights) of each request, in their order
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(port), self._loop).result()
        self.url = f"http://127.0.0.1:{self.port}"

    async def _start(self, port):
        app = web.Application()
        app.add_routes([web.post("/v1/completions", self.complete), web.post("/collective_rpc", self.rpc)])
        app.add_routes([web.get("/v1/models", self.models), web.post("/reset_prefix_cache", self.fine)])
        app.add_routes([web.post("/pause", self.pause), web.post("/resume", self.resume)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True)
        await site.start()
        return site._server.sockets[0].getsockname()[1]

    def stop(self):
        """As kill -9 looks from outside: connections end, the port is closed."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()

    async def complete(self, request):
        body = await request.json()
        if self.mode == "hang":
            await asyncio.sleep(3600)
        if self.mode == "500":
            raise web.HTTPInternalServerError(text="out of memory")
        if self.mode == "garbage":
            return web.json_response({"choices": [{"text": "<html>"}]})
        if self.mode == "400":
            raise web.HTTPBadRequest(text="top_p must be in (0, 1]")
        self.begun.append((body["prompt"], self.policy))
        await asyncio.sleep(self.seconds)
        self.served += 1
        self.served_with.add(self.policy)
        ids = body["prompt"][: body["max_tokens"]]
        logprobs = {"token_logprobs": [-1.0] * len(ids)}
        return web.json_response({"choices": [{"token_ids": ids, "logprobs": logprobs, "finish_reason": "stop"}]})

    async def rpc(self, request):
        if self.mode == "hang":
            await asyncio.sleep(3600)
        body = await request.json()
        if body["method"] == "load_policy":
            self.policy = ""
            return web.json_response({"results": [body["kwargs"]["path"]]})
        if body["method"] == "name_policy":
            self.policy = body["kwargs"]["path"]
        return web.json_response({"results": [self.policy]})

    async def models(self, _):
        return web.json_response({"data": [{"id": "policy", "max_model_len": 64}]})

    async def pause(self, _):
        self.paused = True
        return web.json_response({})

    async def resume(self, _):
        if self.mode == "no resume":
            raise web.HTTPInternalServerError(text="not now")
        self.paused = False
        return web.json_response({})

    async def fine(self, _):
        return web.json_response({"success": True})
