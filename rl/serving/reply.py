"""Sends a request's response, whole or as server-sent events, while the client is connected."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rl.serving.admission import Ticket
from rl.serving.answers import Reply
from rl.serving.errors import ApiError, to_json
from rl.serving.schema import ChatRequest
from rl.serving.service import Service
from rl.serving.stream import Ended, RoundStarted
from rollout.episodes import RunningEpisode

DROPPED = 499  # the client disconnected: never sent, only counted


class ChatReply(Response):
    """Runs a chat request while this response is sent, and cancels it if the client disconnects."""

    def __init__(self, service: Service, request: ChatRequest, episodes: list[RunningEpisode], ticket: Ticket):
        super().__init__()
        options = request.stream_options
        usage = bool(request.stream and options and options.include_usage)
        self._service, self._request, self._episodes, self._ticket = service, request, episodes, ticket
        self._reply = Reply(request.model, len(episodes), usage)
        self._usage = usage
        self._since = time.perf_counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._ticket:
            work = asyncio.create_task(self._stream(scope, send) if self._request.stream else self._whole(send))
            gone = asyncio.create_task(_disconnected(receive))
            try:
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    scope["sawtooth.status"] = DROPPED
            finally:
                for task in (work, gone):
                    task.cancel()
                await asyncio.gather(work, gone, return_exceptions=True)
            if not work.cancelled():
                work.result()  # raises its error to the handlers

    def _events(self) -> aclosing:
        return aclosing(self._service.run(self._episodes, self._request.stops, self._ticket))

    async def _whole(self, send: Send) -> None:
        first = True
        async with self._events() as events:
            async for index, event in events:
                if self._reply.choices[index].add(event) and first:
                    first = False
                    self._service.metrics.first_text(time.perf_counter() - self._since)
        await _start(send, b"application/json")
        await send({"type": "http.response.body", "body": to_json(self._reply.whole())})

    async def _stream(self, scope: Scope, send: Send) -> None:
        """The status is sent with the first text, so an engine that fails at once is still a 502."""
        started = False
        try:
            async with self._events() as events:
                async for index, event in events:
                    if not started and not isinstance(event, RoundStarted):
                        started = True
                        self._service.metrics.first_text(time.perf_counter() - self._since)
                        await _start(send, b"text/event-stream; charset=utf-8")
                        for choice in self._reply.choices:
                            await _say(send, self._reply.chunk(choice.index, {"role": "assistant", "content": ""}))
                    choice = self._reply.choices[index]
                    if delta := choice.add(event):
                        await _say(send, self._reply.chunk(index, delta))
                    if isinstance(event, Ended):
                        await _say(send, self._reply.chunk(index, {}, **choice.ending()))
        except ApiError as error:
            if not started:
                raise
            scope["sawtooth.status"] = error.status
            await _say(send, error.body())
        else:
            if self._usage:
                await _say(send, self._reply.usage_chunk())
            await _event(send, b"[DONE]")
        await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(send: Send, media_type: bytes) -> None:
    headers = [(b"content-type", media_type), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _say(send: Send, content: dict[str, Any]) -> None:
    await _event(send, to_json(content))


async def _event(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})
    await asyncio.sleep(0)  # else nothing may yield to the event loop, and a disconnect goes unnoticed
