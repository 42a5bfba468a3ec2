"""A connection with timeouts and size limits: slow clients are disconnected and don't hold up others.

uvicorn has no timeout for the rest of a request's headers or for a client that does not read. Built on its
H11Protocol (as of 0.54), whose h11 bounds the size of the headers.
"""

from __future__ import annotations

import asyncio
import resource
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from rl.serving.errors import ApiError, to_json

MOST_HEADERS = 1 << 14
"""Bytes of a request's line and headers."""
_SPARE = 256  # descriptors for everything else: the engine's connections, logs
_MOST_CONNECTIONS = 8192
_ENDING = 1.0  # seconds that a connection has at shutdown; uvicorn's own shutdown logs a traceback for each


@dataclass(frozen=True)
class ConnectionLimits:
    """Timeouts of a connection in seconds, and the maximum number of connections."""

    headers: float = 10.0  # to send a request's headers
    body: float = 60.0  # to send its body
    reading: float = 30.0  # during which a client that is behind reads almost nothing
    connections: int = field(default_factory=lambda: descriptors() - _SPARE)


def descriptors() -> int:
    """Raises the limit of open files as far as needed and allowed, and returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _SPARE
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(soft, wanted)


class Connection(H11Protocol):
    """Use `with_limits`: uvicorn creates the instances."""

    limits = ConnectionLimits()
    waiting: dict[Connection, None]
    """Connections without a whole request that is being answered, the one that has waited longest first."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._slow: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._look()
        if len(self.connections) > self.limits.connections:  # the one that has waited longest makes room
            oldest = next(iter(self.waiting))
            del self.waiting[oldest]  # connection_lost comes later, and others may come before it
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()  # the next request, or half of it, may have arrived already

    def send_400_response(self, msg: str) -> None:
        """Answers invalid HTTP, unless another response has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = to_json(ApiError(400, "the request is not valid HTTP", code="invalid_http").body())
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
            for event in (
                h11.Response(status_code=400, headers=list(headers.items())), h11.Data(data=body), h11.EndOfMessage(),
            ):  # fmt: skip
                self.transport.write(self.conn.send(event))
        self._leave()
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect("reading", self.limits.reading)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._met("reading")

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect("reading", self.limits.reading)  # closing waits for unsent data

    def shutdown(self) -> None:
        super().shutdown()
        self._expect("ending", _ENDING)

    def connection_lost(self, exc: Exception | None) -> None:
        self.waiting.pop(self, None)
        for name in list(self._slow):
            self._met(name)
        super().connection_lost(exc)

    @property
    def _begun(self) -> bool:
        """Whether a request's headers have arrived and its response is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def _leave(self) -> None:
        """Tells the handler of the request that the client has disconnected."""
        if self._begun:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _look(self) -> None:
        """Sets timeouts for what the client must send next: headers, then a body. A complete request has none."""
        if self.transport.is_closing():
            return
        if self._begun and not self.cycle.more_body:
            self.waiting.pop(self, None)
        else:
            self.waiting.setdefault(self)
        if self._begun or self.timeout_keep_alive_task is not None:  # uvicorn closes idle ones
            self._met("headers")
        else:
            self._expect("headers", self.limits.headers)
        if self._begun and self.cycle.more_body:
            self._expect("body", self.limits.body)
        else:
            self._met("body")

    def _expect(self, what: str, seconds: float) -> None:
        if what not in self._slow:
            self._slow[what] = self.loop.call_later(seconds, self.transport.abort)

    def _met(self, what: str) -> None:
        timer = self._slow.pop(what, None)
        if timer is not None:
            timer.cancel()


def with_limits(limits: ConnectionLimits) -> type[Connection]:
    """Returns the class for `uvicorn.Config(http=…)`."""
    return type("Connection", (Connection,), {"limits": limits, "waiting": {}})
