"""A connection with limits of time and size: who sends or reads too slowly is hung up on, and holds nobody else up.

uvicorn waits for ever for the rest of a request's headers, and for a client that does not read. Built on its
H11Protocol (read in 0.54), whose h11 bounds the size of the headers.
"""

from __future__ import annotations

import asyncio
import resource
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_HEADERS = 1 << 14
"""Bytes of a request's line and headers."""
_SPARE = 256  # descriptors for all else: the engine's connections, logs
_MOST_CONNECTIONS = 8192


@dataclass(frozen=True)
class Patience:
    """Seconds that a connection may take, and how many there may be."""

    headers: float = 10.0  # to send a request's headers
    body: float = 60.0  # to send its body
    reading: float = 30.0  # in which a client that is behind reads nothing to speak of
    connections: int = field(default_factory=lambda: descriptors() - _SPARE)


def descriptors() -> int:
    """Files that this process may open: as many as the system lets it have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _SPARE
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(soft, wanted)


class Connection(H11Protocol):
    """Use `with_patience`: uvicorn makes instances itself."""

    patience = Patience()
    unheard: dict[Connection, None]
    """Connections whose request has not come in whole headers, the oldest first."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._slow: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._listen()
        if len(self.connections) > self.patience.connections:  # room is made by the one that has dawdled longest
            oldest = next(iter(self.unheard))
            del self.unheard[oldest]  # it is lost a moment later, and several may come in that moment
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._listen()
            return
        self._heard()
        if self.cycle.more_body:
            self._expect("body", self.patience.body)
        else:
            self._met("body")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect("reading", self.patience.reading)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._met("reading")

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect("reading", self.patience.reading)  # closing waits for what is still to be sent

    def connection_lost(self, exc: Exception | None) -> None:
        self._heard()
        for name in list(self._slow):
            self._met(name)
        super().connection_lost(exc)

    def _listen(self) -> None:
        """A request may begin: an idle connection is uvicorn's to close, one that has begun has its time."""
        if self.transport.is_closing() or "headers" in self._slow:
            return
        if self.timeout_keep_alive_task is None:
            self.unheard[self] = None
            self._expect("headers", self.patience.headers)

    def _heard(self) -> None:
        self.unheard.pop(self, None)
        self._met("headers")

    def _expect(self, what: str, seconds: float) -> None:
        if what not in self._slow:
            self._slow[what] = self.loop.call_later(seconds, self.transport.abort)

    def _met(self, what: str) -> None:
        timer = self._slow.pop(what, None)
        if timer is not None:
            timer.cancel()


def with_patience(patience: Patience) -> type[Connection]:
    """The class for `uvicorn.Config(http=…)`."""
    return type("Connection", (Connection,), {"patience": patience, "unheard": {}})
